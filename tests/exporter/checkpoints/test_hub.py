"""Downloads, against a small server that speaks as much of the hub's protocol as they use."""

import json
import shutil

import huggingface_hub.constants
import pytest
from fake_hub import COMMIT, serve, use_endpoint
from safetensors.torch import load_file, save_file

from diffoundry.exporter.checkpoints import checkpoint as checkpoint_module
from diffoundry.exporter.checkpoints.aliases import Alias
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.checkpoints.hub import download
from diffoundry.runtime.errors import CheckpointError, InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own, and no way to the real hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.fixture
def hub(own_checkpoint):
    """A repository as they are: pickles, EMA weights, other frameworks and images beside what is needed."""
    for name in (
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/flax_model.msgpack",
        "safety_checker/model.safetensors",
        "v1-5-pruned.ckpt",
        "README.md",
    ):
        (own_checkpoint / name).parent.mkdir(exist_ok=True)
        (own_checkpoint / name).write_bytes(b"not needed")
    yield from serve(own_checkpoint)


NEEDED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    *(f"tokenizer/{name}" for name in ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")),
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


def test_only_needed_files_are_downloaded(hub, own_checkpoint):
    told = {}
    root = download(
        "org/model", None, lambda *news: told.setdefault(news[0], []).append(news[1:]), endpoint=hub.address
    )
    assert set(hub.asked) == NEEDED
    assert len(hub.asked) == len(NEEDED)
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} == NEEDED
    identity = Checkpoint.at(root, name="org/model").identity()
    assert identity == Checkpoint.at(own_checkpoint, name="other").identity()
    assert set(told) == NEEDED
    for name, news in told.items():
        size = (own_checkpoint / name).stat().st_size
        assert news[-1] == (size, size)
        assert [done for done, _ in news] == sorted(done for done, _ in news)


def test_nothing_twice_and_offline_from_the_cache(hub):
    first = download("org/model", endpoint=hub.address)
    hub.asked.clear()
    assert download("org/model", endpoint=hub.address) == first
    assert hub.asked == []
    hub.shutdown()
    hub.server_close()
    assert download("org/model", endpoint="http://127.0.0.1:9") == first


def test_shards(hub, own_checkpoint):
    whole = own_checkpoint / "unet/diffusion_pytorch_model.safetensors"
    tensors = sorted(load_file(whole).items())
    whole.unlink()
    halves = {"a.safetensors": dict(tensors[:99]), "b.safetensors": dict(tensors[99:])}
    for name, part in halves.items():
        save_file(part, whole.with_name(name), metadata={"format": "pt"})
    weight_map = {tensor: name for name, part in halves.items() for tensor in part}
    index = whole.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    root = download("org/model", endpoint=hub.address)
    assert {path.name for path in (root / "unet").iterdir()} == {"config.json", index.name, *halves}
    assert len(Checkpoint.at(root, name="org/model").load("unet").state_dict()) == len(tensors)


def test_every_controlnet_of_a_pipeline(hub, own_checkpoint, tiny_controlnet):
    path = own_checkpoint / "model_index.json"
    several = {
        "_class_name": "StableDiffusionControlNetPipeline",
        "controlnet": ["diffusers", "MultiControlNetModel"],
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **several}))
    for name, net in (("controlnet", "first"), ("controlnet_1", "pooled")):
        shutil.copytree(tiny_controlnet("sd1", net), own_checkpoint / name)
    root = download("org/model", endpoint=hub.address)
    found = Checkpoint.at(root, name="org/model")
    assert [part.name for part in found.components][-2:] == ["controlnet", "controlnet_1"]
    assert found.identity() == Checkpoint.at(own_checkpoint, name="other").identity()


def test_fp16_when_there_is_nothing_else(hub, own_checkpoint):
    (own_checkpoint / "unet/diffusion_pytorch_model.safetensors").unlink()
    root = download("org/model", endpoint=hub.address)
    assert {path.name for path in (root / "unet").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    }


def test_a_variant_is_downloaded_where_there_is_one(hub):
    root = download("org/model", endpoint=hub.address, variant="non_ema")
    names = {path.relative_to(root).as_posix() for path in root.rglob("*.safetensors")}
    assert names == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_pickles_are_not_even_downloaded(hub, own_checkpoint):
    for path in (own_checkpoint / "unet").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"org/model/unet/diffusion_pytorch_model\.bin: weights are pickled"):
        download("org/model", endpoint=hub.address)
    assert not any(name.endswith(".bin") for name in hub.asked)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("RepoNotFound", "model 'org/model': is no folder here and not on the hub, or private; check the name"),
        ("RevisionNotFound", "model 'org/model': the hub has no revision 'v9' of it"),
        ("GatedRepo", "model 'org/model': its licence must be accepted on its hub page"),
    ],
)
def test_the_hub_refuses(hub, code, message):
    hub.error = code
    with pytest.raises(CheckpointError, match=message) as caught:
        download("org/model", "v9", endpoint=hub.address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model_index.json", "vae/config.json"])
def test_a_repository_of_another_kind(hub, own_checkpoint, name):
    (own_checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=f"got a repository without {name}, expected a diffusers checkpoint"):
        download("org/model", endpoint=hub.address)


def test_a_download_that_breaks_off_continues(hub):
    hub.broken = "vae/diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match="the download broke off .*; run the command again to continue it"):
        download("org/model", endpoint=hub.address)
    hub.broken = None
    hub.asked.clear()
    download("org/model", endpoint=hub.address)
    assert hub.asked == ["vae/diffusion_pytorch_model.safetensors"]


@pytest.mark.timeout(60)  # an answer, not a series of retries
@pytest.mark.parametrize("model", ["org/model", "sd15"])
def test_no_connection(model):
    message = r"the hub cannot be reached \(.+\) and the model was not downloaded before"
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(model)
    assert "\n" not in str(caught.value)
    assert "hf download" in str(caught.value)


def test_a_name_that_the_hub_does_not_allow():
    with pytest.raises(CheckpointError, match=r"model 'org/a--b': is no valid hub id \(.+\)"):
        open_checkpoint("org/a--b")


def test_switched_off(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"the hub cannot be reached \(.*HF_HUB_OFFLINE.*\)"):
        open_checkpoint("org/model")


def test_revisions(hub, monkeypatch, own_checkpoint):
    """--revision, and org/name@revision, which the recipe keeps; of an alias, too."""
    use_endpoint(monkeypatch, hub.address)
    monkeypatch.setattr(checkpoint_module, "read_aliases", lambda: {"mine": Alias(configs="none", hub="org/model")})
    for model in ("org/model", "mine"):
        named = f"{model}@{COMMIT}"
        assert open_checkpoint(model).name == model
        assert open_checkpoint(model, revision=COMMIT).name == named
        assert open_checkpoint(named).name == named
        assert open_checkpoint(named, revision=COMMIT).name == named
    with pytest.raises(InputError, match="--revision: got 'v1' with the model 'org/model@v2', which names another"):
        open_checkpoint("org/model@v2", revision="v1")
    with pytest.raises(InputError, match="--revision: got 'v1' with the folder .*own, expected it with a hub id only"):
        open_checkpoint(str(own_checkpoint), revision="v1")
    odd = own_checkpoint.rename(own_checkpoint.with_name("own@home"))
    assert open_checkpoint(str(odd)).name == str(odd)


def test_an_alias_is_downloaded(hub, monkeypatch):
    use_endpoint(monkeypatch, hub.address)
    monkeypatch.setattr(checkpoint_module, "read_aliases", lambda: {"mine": Alias(configs="none", hub="org/model")})
    told = []
    opened = open_checkpoint("mine", progress=lambda *news: told.append(news))
    assert opened.name == "mine"
    assert opened.root.name == COMMIT
    assert told
    shutil.rmtree(opened.root / "unet")
    assert open_checkpoint("mine").component("unet")

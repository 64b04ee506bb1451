"""Weights: read as diffusers and transformers read them, widened without loss, and never made up."""

import json
import shutil

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.weights import random_weights, widen
from diffoundry.runtime.errors import CheckpointError

UNET = "unet/diffusion_pytorch_model.safetensors"
CLASSES = {
    "text_encoder": transformers.CLIPTextModel,
    "unet": diffusers.UNet2DConditionModel,
    "vae": diffusers.AutoencoderKL,
}


def load(root, name):
    return open_checkpoint(str(root)).load(name).state_dict()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rewrite(path, change):
    """Save the changed tensors of a safetensors file."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path, metadata={"format": "pt"})


def as_half(tensors):
    return {name: tensor.half() for name, tensor in tensors.items()}


@pytest.mark.parametrize("source", CLASSES)
def test_fp32_is_taken_as_it_is(tiny_sd_checkpoint, source):
    root = tiny_sd_checkpoint("sd2")
    module = open_checkpoint(str(root)).load(source)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert same(module.state_dict(), CLASSES[source].from_pretrained(root / source).state_dict())


@pytest.mark.parametrize("source", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_widened(own_checkpoint, source, dtype):
    module = CLASSES[source].from_pretrained(own_checkpoint / source).to(dtype)
    module.save_pretrained(own_checkpoint / source)
    assert same(load(own_checkpoint, source), module.float().state_dict())


def test_a_widened_buffer_that_is_a_view_can_be_traced():
    """A trace compares the dtype of a view, such as the positions of Stable Diffusion 3, with that of its base."""

    class Positions(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("positions", torch.arange(4).half().unsqueeze(0))

        def forward(self, states):
            return states + self.positions

    program = torch.export.export(widen(Positions()), (torch.ones(1, 4),))
    assert torch.equal(program.module()(torch.ones(1, 4)), torch.tensor([[1.0, 2, 3, 4]]))


def test_a_mixed_file_keeps_values_beyond_fp16(own_checkpoint):
    def mix(tensors):
        halves = as_half(tensors)
        return {**halves, "conv_in.bias": torch.full_like(tensors["conv_in.bias"], 1e-9)}

    rewrite(own_checkpoint / UNET, mix)
    state = load(own_checkpoint, "unet")
    assert state["conv_in.bias"].unique().tolist() == [pytest.approx(1e-9, rel=1e-6)]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_full_precision_is_preferred_to_fp16(own_checkpoint):
    full = own_checkpoint / UNET
    half = full.with_name("diffusion_pytorch_model.fp16.safetensors")
    shutil.copy(full, half)
    rewrite(half, as_half)
    assert same(load(own_checkpoint, "unet"), load_file(full))
    assert UNET in open_checkpoint(str(own_checkpoint)).identity()
    expected = {name: tensor.float() for name, tensor in load_file(half).items()}
    full.unlink()
    assert same(load(own_checkpoint, "unet"), expected)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in open_checkpoint(str(own_checkpoint)).identity()


@pytest.mark.parametrize("source", ["text_encoder", "unet"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(own_checkpoint, source, variant):
    expected = load(own_checkpoint, source)
    module = CLASSES[source].from_pretrained(own_checkpoint / source)
    shutil.rmtree(own_checkpoint / source)
    module.save_pretrained(own_checkpoint / source, max_shard_size="500KB", variant=variant)
    assert len(list((own_checkpoint / source).glob("*.safetensors"))) > 1
    assert same(load(own_checkpoint, source), expected)
    assert len(open_checkpoint(str(own_checkpoint)).identity()) > len(CLASSES) * 2


def test_names_of_older_libraries(own_checkpoint):
    """Hub checkpoints of 2022: a prefix and position ids in CLIP, other names for the VAE's attention."""
    text, vae = load(own_checkpoint, "text_encoder"), load(own_checkpoint, "vae")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name):
        return next((name.replace(f".{new}.", f".{past}.") for new, past in old.items() if f".{new}." in name), name)

    rewrite(
        own_checkpoint / "vae/diffusion_pytorch_model.safetensors",
        lambda tensors: {rename(name): tensor for name, tensor in tensors.items()},
    )
    rewrite(
        own_checkpoint / "text_encoder/model.safetensors",
        lambda tensors: {
            **{f"text_model.{name}": tensor for name, tensor in tensors.items()},
            "text_model.embeddings.position_ids": torch.arange(77)[None],
        },
    )
    assert any(".query." in name for name in load_file(own_checkpoint / "vae/diffusion_pytorch_model.safetensors"))
    assert same(load(own_checkpoint, "vae"), vae)
    assert same(load(own_checkpoint, "text_encoder"), text)


def without_two(tensors):
    return {name: tensor for name, tensor in tensors.items() if name not in ("conv_in.bias", "conv_out.weight")}


def without_many(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("down_blocks.0")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_two, r"unet: weights are missing: conv_in\.bias, conv_out\.weight; got files without them"),
        (without_many, r"weights are missing: (down_blocks\.0[\w.]+, ){4}down_blocks\.0[\w.]+ and \d+ more;"),
        (
            lambda tensors: {**tensors, "conv_in.bias": torch.zeros(5)},
            r"cannot be loaded as UNet2DConditionModel: .*conv_in\.bias expected shape",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(own_checkpoint, change, message):
    rewrite(own_checkpoint / UNET, change)
    with pytest.raises(CheckpointError, match=message):
        load(own_checkpoint, "unet")


def test_missing_weights_of_transformers_are_refused(own_checkpoint):
    rewrite(
        own_checkpoint / "text_encoder/model.safetensors",
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "final_layer_norm.bias"},
    )
    with pytest.raises(CheckpointError, match=r"text_encoder: weights are missing: final_layer_norm\.bias; got"):
        load(own_checkpoint, "text_encoder")


@pytest.mark.parametrize("keep", [0, 7, 2000, -1])
def test_a_truncated_file_is_refused(own_checkpoint, keep):
    file = own_checkpoint / UNET
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is (empty|cut off: it has \d+ bytes)"):
        load(own_checkpoint, "unet")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt"])
def test_pickles_are_refused(own_checkpoint, name):
    (own_checkpoint / UNET).rename(own_checkpoint / "unet" / name)
    with pytest.raises(CheckpointError, match=rf"unet/{name}: weights are pickled.*'diffoundry convert CHECK"):
        load(own_checkpoint, "unet")


def test_no_weights(own_checkpoint):
    (own_checkpoint / "text_encoder/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"text_encoder: no weights found, expected model\.safetensors"):
        load(own_checkpoint, "text_encoder")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../secret.safetensors"}}, r"names the file '\.\./secret\.safetensors', expected a"),
        ({"weight_map": {"a": "/etc/secret.safetensors"}}, "it is not trusted"),
        ({"weight_map": {"a": "..\\secret.safetensors"}}, "it is not trusted"),
        ({"weight_map": {"a": "model.bin"}}, r"names the file 'model\.bin', expected a \.safetensors file"),
        ({"weight_map": {"a": "gone.safetensors"}}, r"names the file 'gone\.safetensors', which is missing"),
        ({"weight_map": {}}, "got no 'weight_map', expected tensor names with their files"),
        ({"weight_map": ["a"]}, "got no 'weight_map'"),
    ],
)
def test_a_bad_index_is_refused(own_checkpoint, index, message):
    path = own_checkpoint / "unet/diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        load(own_checkpoint, "unet")


def test_a_config_that_builds_nothing(own_checkpoint):
    config = own_checkpoint / "unet/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "down_block_types": ["NoSuchBlock"] * 3}))
    with pytest.raises(CheckpointError, match="cannot be loaded as UNet2DConditionModel: .*NoSuchBlock"):
        load(own_checkpoint, "unet")
    with pytest.raises(CheckpointError, match="cannot be built as UNet2DConditionModel: .*NoSuchBlock"):
        open_checkpoint(str(own_checkpoint), random_weights=True).load("unet")


class TestRandomWeights:
    def test_follow_the_seed_alone(self, tiny_sd_checkpoint):
        def make(seed, *names):
            checkpoint = open_checkpoint(str(tiny_sd_checkpoint()), random_weights=True, seed=seed)
            return [checkpoint.load(name).state_dict() for name in names]

        before = torch.random.get_rng_state()
        _, unet = make(1, "vae", "unet")
        (alone,) = make(1, "unet")
        (other,) = make(2, "unet")
        assert same(unet, alone)
        assert not same(unet, other)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_differ_between_equal_components(self, own_checkpoint):
        shutil.copytree(own_checkpoint / "text_encoder", own_checkpoint / "text_encoder_2")
        made = [
            random_weights(own_checkpoint / name, "transformers:CLIPTextModel", 0).state_dict()
            for name in ("text_encoder", "text_encoder_2")
        ]
        assert not same(*made)

    @pytest.mark.parametrize("variant", ["sd1", "sd2"])
    def test_generate_something(self, tiny_sd_checkpoint, variant):
        """Activations stay finite, and differ from row to row."""
        checkpoint = open_checkpoint(str(tiny_sd_checkpoint(variant)), random_weights=True)
        text, unet, vae = (checkpoint.load(name) for name in ("text_encoder", "unet", "vae"))
        ids = torch.tensor([[4293, 320, 500, 4294], [4293, 700, 4294, 4294]])
        with torch.no_grad():
            states = text(ids).last_hidden_state
            noise = unet(torch.randn(2, 4, 8, 8), 500, states).sample
            image = vae.decode(noise).sample
        for tensor in (states, noise, image):
            assert tensor.isfinite().all()
            assert tensor.std() > 0.01
            assert (tensor[0] - tensor[1]).std() > 0.01

    def test_position_ids_are_real(self, tiny_sd_checkpoint):
        module = open_checkpoint(str(tiny_sd_checkpoint()), random_weights=True).load("text_encoder")
        assert torch.equal(module.embeddings.position_ids, torch.arange(77)[None])

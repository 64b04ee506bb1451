"""The transformer of Stable Diffusion 3's kind: its training, its command, and the shipped weights."""

import argparse
import dataclasses
import importlib.resources
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from system_pair import compare_system  # noqa: E402
from torch.nn import functional  # noqa: E402

from diffoundry.runtime import load  # noqa: E402
from diffoundry_models.emoji import score  # noqa: E402
from diffoundry_models.emoji.training import checkpoint, data, joint_transformer, loop  # noqa: E402
from diffoundry_models.emoji.training.workspace import Workspace  # noqa: E402

SHIPPED = importlib.resources.files("diffoundry_models") / "emoji-dit"
OPTIONS = loop.Options(steps=2, batch=3, lr=1e-3, warmup=1, decay=0.5, seed=4)


@pytest.fixture(scope="module")
def tiny_dit(tmp_path_factory):
    """The shipped wiring around a network of a few thousand weights, all of them drawn."""
    folder = tmp_path_factory.mktemp("dit")
    shutil.copyfile(SHIPPED / "model_index.json", folder / "model_index.json")
    shutil.copytree(SHIPPED / "scheduler", folder / "scheduler")
    config = {**diffusers.SD3Transformer2DModel.load_config(SHIPPED / "transformer")}
    widths = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 2, "caption_projection_dim": 16}
    tokens = {"joint_attention_dim": 32, "pooled_projection_dim": 32}
    torch.manual_seed(0)
    diffusers.SD3Transformer2DModel.from_config(config | widths | tokens).half().save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def space(data_folder, tiny_dit, tiny_base, tmp_path):
    out = tmp_path / "space"
    checkpoint.prepare_folder(out, tiny_dit, components=("transformer",))
    joint_transformer.prepare_parts(tiny_base, out)
    emoji = data.load_emoji(data_folder)
    return Workspace(out=out, init=tiny_dit, architecture=tiny_dit, emoji=emoji, images=data.images(emoji))


def test_one_token_counts_as_many(tiny_dit):
    """The network of the training gives what diffusers' gives with all 256 zeros, and what fewer would not give."""
    network = checkpoint.load_network(diffusers.SD3Transformer2DModel, tiny_dit / "transformer").eval()
    generator = torch.Generator().manual_seed(1)
    sample, states, pooled = (
        torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, joint_transformer.TOKENS, 32), (2, 32))
    )
    times = torch.tensor([900.0, 30.0])

    @torch.no_grad()
    def run(zeros):
        return network(sample, functional.pad(states, (0, 0, 0, zeros)), pooled, times).sample

    whole = run(joint_transformer.EMPTY_TOKENS)
    network.set_attn_processor(joint_transformer.MergedTokensAttention(joint_transformer.EMPTY_TOKENS))
    torch.testing.assert_close(run(1), whole, atol=1e-5, rtol=0)
    network.set_attn_processor(joint_transformer.MergedTokensAttention(1))
    assert (run(1) - whole).abs().max() > 1e-3


def test_the_loss_is_zero_for_a_network_that_knows_the_velocity(space, monkeypatch):
    """An encoder that answers one number makes all images alike, so an oracle knows the latents."""
    vae = checkpoint.load_network(diffusers.AutoencoderKL, space.out / "vae")
    with torch.no_grad():
        vae.quant_conv.weight.zero_()
        vae.quant_conv.bias[:4], vae.quant_conv.bias[4:] = 6.0, -30.0
    checkpoint.write_component(vae.half(), space.out / "vae")
    task = joint_transformer.transformer_task(space, OPTIONS)
    pipeline = score.open_pipeline(space.out, "cpu")
    seen = []

    def oracle(hidden_states, timestep, encoder_hidden_states, pooled_projections):
        times = timestep.view(-1, 1, 1, 1) / 1000
        clean = 6 * vae.config.scaling_factor
        seen.append((times.flatten(), encoder_hidden_states, pooled_projections))
        noise = (hidden_states - (1 - times) * clean) / times
        return argparse.Namespace(sample=noise - clean)

    monkeypatch.setattr(task.module, "forward", oracle)
    generator = torch.Generator().manual_seed(2)
    assert max(float(task.loss(generator)) for _ in range(60)) < 1e-5
    times, states, pooled = (torch.cat(parts) for parts in zip(*seen, strict=True))
    logits = torch.logit(times)
    assert float(logits.mean()) == pytest.approx(0, abs=0.2)
    assert float(logits.std()) == pytest.approx(1, abs=0.15)
    # Prompts as diffusers encodes them: four templates of a label, and none for about one in ten.
    prompts = ["", *(template.format(one.label) for one in space.emoji for template in data.TEMPLATES)]
    known, _, known_pooled, _ = pipeline.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
    assert states.shape[1:] == (joint_transformer.TOKENS + 1, 32)
    assert not states[:, -1].any()
    assert not known[:, joint_transformer.TOKENS :].any()
    same = (states[:, None, :-1] - known[None, :, : joint_transformer.TOKENS]).abs().amax((2, 3)) < 1e-5
    assert same.any(0).all()
    assert 0.03 < float(same[:, 0].float().mean()) < 0.2
    torch.testing.assert_close(pooled[same.any(1)], known_pooled[same.int().argmax(1)][same.any(1)])


def test_the_first_network_answers_zero(space, tiny_dit):
    scratch = dataclasses.replace(space, init=None, architecture=tiny_dit)
    network = joint_transformer.transformer_task(scratch, OPTIONS).module
    with torch.no_grad():
        output = network(torch.ones(1, 4, 8, 8), torch.ones(1, 3, 32), torch.ones(1, 32), torch.tensor([5.0])).sample
    assert not output.any()
    assert all(block.attn.to_q.weight.any() for block in network.transformer_blocks)


def test_the_commands_train_resume_and_score(data_folder, tiny_base, tiny_dit, tmp_path, load_script, capsys):
    train = load_script("emoji-dit", "train")
    train._HERE = tiny_dit
    out = tmp_path / "out"
    common = ["--data", str(data_folder), "--base", str(tiny_base), "--out", str(out), "--steps", "3", "--batch", "2"]
    assert train.main([*common, "--save-every", "2"]) == 0
    assert "transformer: step 3/3, loss " in capsys.readouterr().err
    assert train.main([*common, "--resume"]) == 0
    assert "transformer: finished before, at step 3" in capsys.readouterr().err
    pipeline = score.open_pipeline(out, "cpu")
    assert type(pipeline).__name__ == "StableDiffusion3Pipeline"
    assert pipeline.tokenizer_max_length == joint_transformer.TOKENS
    assert pipeline.text_encoder_3 is None
    weights = {str(value.dtype) for file in out.glob("*/*.safetensors") for value in load_file(file).values()}
    assert weights == {"torch.float16"}
    own, base = (load_file(folder / "text_encoder" / "model.safetensors") for folder in (out, tiny_base))
    assert torch.equal(own.pop("text_projection.weight"), torch.eye(16, dtype=torch.float16))
    own, base = ({name.removeprefix("text_model."): value for name, value in part.items()} for part in (own, base))
    positions = "embeddings.position_embedding.weight"
    base[positions] = base[positions][: joint_transformer.TOKENS]
    torch.testing.assert_close(own, base, atol=0, rtol=0)

    asked = [str(out), "--data", str(data_folder), "--steps", "2", "--json"]
    assert score.main(asked) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["labels"], result["scheduler"]) == (2, "FlowMatchEulerDiscreteScheduler")


@pytest.fixture(scope="module")
def shipped_bundle(exported):
    return exported("emoji-dit", target="onnxruntime,openvino")


PROMPTS = ("red apple", "cat face", "rocket", "pizza", "house", "red heart")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_shipped_weights_generate_what_the_prompt_names(shipped_bundle, target):
    pipe = load(shipped_bundle, target=target)
    prompts = [f"a {label}" for label in PROMPTS]
    images = np.asarray(pipe(prompts, seed=0, num_inference_steps=8, guidance_scale=4.0, output_type="np").images)
    labels = data.read_labels(SHIPPED / "captions.json")
    with Image.open(SHIPPED / "thumbnails.png") as sheet:
        known = np.asarray(sheet.convert("RGB"), dtype=np.float64) / 255
    known = known.reshape(-1, 16, 16, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)[: len(labels)]
    small = images.reshape(-1, 16, 4, 16, 4, 3).mean((2, 4))
    errors = np.square(small[:, None] - known).mean((2, 3, 4))
    assert [labels[index] for index in errors.argmin(axis=1)] == list(PROMPTS)
    assert errors.min(axis=1).max() < 0.004


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_diffusers_generates_the_same(shipped_bundle, target):
    compare_system(
        load(shipped_bundle, target=target),
        score.open_pipeline(SHIPPED, "cpu"),
        prompt="a red apple",
        num_inference_steps=5,
        guidance_scale=4.0,
        tolerance=1e-3,
    )


def test_shipped_files():
    weights = list(SHIPPED.glob("*/*.safetensors"))
    assert {file.parent.name for file in weights} == {"text_encoder", "text_encoder_2", "transformer", "vae"}
    assert sum(file.stat().st_size for file in (SHIPPED / "transformer").iterdir()) < 12e6
    assert {value.dtype for file in weights for value in load_file(file).values()} == {torch.float16}
    for name in (
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer.json",
        "captions.json",
        "thumbnails.png",
    ):
        assert (SHIPPED / name).read_bytes() == (checkpoint.SHIPPED / name).read_bytes()
    for name in ("text_encoder/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
        assert (SHIPPED / name).read_bytes() == (SHIPPED / name.replace("/", "_2/", 1)).read_bytes()
    card, notice = ((SHIPPED / name).read_text(encoding="utf-8") for name in ("README.md", "NOTICE"))
    for package in ("@lobehub/fluent-emoji-3d 1.1.0", "emojibase-data 17.0.0"):
        assert package in notice
        assert package.split()[0] in card
    assert "THE SOFTWARE IS PROVIDED" in notice

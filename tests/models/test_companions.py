"""Training of the companions of the emoji model: their losses, motion and files, their commands."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402

from diffoundry.runtime.errors import CheckpointError, DiffoundryError  # noqa: E402
from diffoundry_models.emoji.training import (  # noqa: E402
    checkpoint,
    companion,
    controlnet,
    data,
    inversion,
    loop,
    lora,
    motion,
)
from diffoundry_models.emoji.training.vae import encode  # noqa: E402

OPTIONS = loop.Options(steps=3, batch=4, lr=1e-2, warmup=2, decay=0.5, seed=4)


@pytest.fixture
def space(workspace, tmp_path):
    """A workspace whose images are twice as large, as the stages for edges want them."""
    made = workspace(tmp_path)
    return dataclasses.replace(made, images=data.images(made.emoji, motion.FACTOR))


@pytest.fixture(scope="session")
def flat_folder(data_folder):
    """Content of --data with the flat images: a square for every emoji."""
    images = data_folder / "emoji-datasource-google-16.0.0" / "img" / "google" / "64"
    images.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(data.load_emoji(data_folder)):
        square = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        square.paste((50 * number, 100, 200, 255), (8, 8, 56, 56))
        square.save(images / f"{one.file.stem}.png")
    return data_folder


def test_flat_images_are_found_by_code_point(flat_folder, tmp_path):
    emoji = data.load_emoji(flat_folder)
    flat = data.flat_emoji(emoji, flat_folder)
    assert [one.label for one in flat] == [one.label for one in emoji]
    assert {one.file.suffix for one in flat} == {".png"}
    shown = data.images(flat)
    assert torch.equal(shown[:, :, 32, 32], (torch.tensor([[50 * i, 100, 200] for i in range(len(flat))]) / 127.5 - 1))
    stranger = dataclasses.replace(emoji[0], label="void", file=tmp_path / "ffff.webp")
    with pytest.raises(DiffoundryError, match="'void' has no flat image in"):
        data.flat_emoji([stranger], flat_folder)


def test_motion_agrees_with_pillow():
    """A map applied by Pillow, which wants it in pixels."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    large = Image.new("RGB", (128, 128), "white")
    large.paste(noise.resize((96, 96), Image.Resampling.BICUBIC), (16, 16))
    values = torch.from_numpy(np.asarray(large).astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    for given in motion.draw_motion(6, torch.Generator().manual_seed(3)):
        (a, b, c), (d, e, f) = given.tolist()
        # Of coordinates from -1 to 1 in the middles of pixels: x' = a x + b y + c.
        pixels = (a, b, 64 * (1 + c - a - b), d, e, 64 * (1 + f - d - e))
        moved = large.transform(
            (128, 128), Image.Transform.AFFINE, pixels, Image.Resampling.BILINEAR, fillcolor="white"
        )
        want = np.asarray(moved, dtype=np.float32).reshape(64, 2, 64, 2, 3).mean((1, 3)) / 127.5 - 1
        got = motion.move(values, given[None])[0].permute(1, 2, 0).numpy()
        assert np.abs(got - want).mean() < 0.01


def test_motion_stays_in_its_bounds():
    maps = motion.draw_motion(4000, torch.Generator().manual_seed(0))
    turn = maps[:, :, :2].double()
    size = torch.linalg.det(turn).abs().rsqrt()  # of output to input: the inverse of the scale
    still = (maps == torch.eye(2, 3)).all(dim=(1, 2))
    assert float(still.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert 0.749 < float(size.min()) < 0.78
    assert 1.02 < float(size.max()) < 1.051
    assert float((torch.linalg.det(turn) < 0).float().mean()) == pytest.approx(0.45, abs=0.03)
    where = torch.linalg.solve(turn, -maps[:, :, 2:].double())[..., 0]  # where the middle comes to lie
    assert float(where.abs().max()) == pytest.approx(0.22, abs=0.01)
    angle = torch.atan2(turn[:, 1, 0].abs(), turn[:, 1, 1])
    assert math.degrees(float(angle.max())) == pytest.approx(25, abs=0.5)


def test_found_latents_decode_better_than_the_encoders(workspace, tmp_path):
    """Of the shipped autoencoder, which never saw an ellipse."""
    space = workspace(tmp_path, count=2)
    vae = checkpoint.load_network(diffusers.AutoencoderKL, checkpoint.SHIPPED / "vae").requires_grad_(False)

    def error(latents):
        return float((vae.decode(latents).sample - space.images).square().mean())

    found = inversion.find_latents(vae, space.images, steps=12)
    assert found.shape == (2, 4, 8, 8)
    assert error(found) < 0.8 * error(encode(vae, space.images)[0])


def test_the_encoder_stage_moves_the_encoder_only(space):
    task = inversion.encoder_task(space, OPTIONS)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    loop.train(task, OPTIONS, loop.Session(report=lambda _: None), space.out / "e.pt", lambda _: None)
    moved = {
        name.split(".")[0] for name, value in task.module.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"encoder", "quant_conv"}


def test_words_are_those_of_the_text_encoder(workspace, tmp_path):
    space = workspace(tmp_path)
    base = companion.load_base(space.init, space.emoji, space.device, seed=1)
    tokenizer = diffusers.StableDiffusionPipeline.from_pretrained(space.init).tokenizer
    import transformers

    encoder = transformers.CLIPTextModel.from_pretrained(space.init / "text_encoder").float()
    captions = [f"an emoji of {space.emoji[1].label}", ""]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    want = encoder(ids).last_hidden_state
    torch.testing.assert_close(base.words[1, 2], want[0])
    torch.testing.assert_close(base.words[1, -1], want[1])
    draw = base.draw(400, 0.25, torch.Generator().manual_seed(0))
    empty = (draw.words == base.words[0, -1]).all(dim=(1, 2))
    assert float(empty.float().mean()) == pytest.approx(0.25, abs=0.07)
    assert set(draw.picked.tolist()) == {0, 1, 2, 3}


def test_the_lora_is_diffusers_own(workspace, tmp_path, monkeypatch):
    """Check that diffusers loads the same weights that training has in memory."""
    space = workspace(tmp_path)
    monkeypatch.setattr(lora, "find_latents", lambda vae, images: encode(vae, images)[0].detach())
    task = lora.lora_task(space, OPTIONS)
    seen = []
    session = loop.Session(report=lambda _: None)
    loop.train(
        task, OPTIONS, session, tmp_path / "l.pt", lambda unet: seen.append(unet) or lora.write_lora(unet, tmp_path)
    )
    tensors = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    plain = checkpoint.load_network(diffusers.UNet2DConditionModel, space.init / "unet")
    layers = {name for name, module in plain.named_modules() if isinstance(module, kinds)}
    layers = {name for name in layers if not name.startswith("time_embedding")}
    assert {name.removeprefix("unet.").rsplit(".", 2)[0] for name in tensors} == layers
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(space.init, torch_dtype=torch.float32)
    pipe.load_lora_weights(str(tmp_path))
    sample, words = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16)
    got, want, base = (unet(sample, 500, words).sample for unet in (pipe.unet, seen[0], plain))
    torch.testing.assert_close(got, want, atol=2e-3, rtol=0)
    assert float((got - base).abs().max()) > 0.01


def test_the_controlnet_begins_as_nothing_and_then_learns(space):
    inversion.write_encoder(
        checkpoint.load_network(diffusers.AutoencoderKL, space.init / "vae"), space.out / controlnet.ENCODER
    )
    task = controlnet.controlnet_task(space, OPTIONS)
    sample, words, lines = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16), torch.ones(1, 3, 64, 64)
    down, middle = task.module(sample, 500, words, controlnet_cond=lines, return_dict=False)
    assert not any(part.any() for part in (*down, middle))
    session = loop.Session(report=lambda _: None)
    loop.train(task, OPTIONS, session, space.out / "c.pt", lambda net: controlnet.write_controlnet(net, space.out))
    written = diffusers.ControlNetModel.from_pretrained(space.out, torch_dtype=torch.float32)
    down, middle = written(sample, 500, words, controlnet_cond=lines, return_dict=False)
    assert all(part.any() for part in (*down, middle))
    assert written.config.mid_block_type == "UNetMidBlock2D"


def test_the_controlnet_needs_its_encoder(space):
    with pytest.raises(CheckpointError, match="Run --stage encoder first"):
        controlnet.controlnet_task(space, OPTIONS)


@pytest.mark.slow
def test_the_commands(flat_folder, tiny_checkpoint, tmp_path, load_script, capsys, monkeypatch):
    monkeypatch.setattr(inversion.find_latents, "__defaults__", (2,))
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, base)
    data.write_captions(data.load_emoji(flat_folder), base / "captions.json")
    common = ["--data", str(flat_folder), "--base", str(base), "--steps", "2", "--batch", "2"]
    for folder, stages, file in (
        ("emoji-flat", ["lora"], "pytorch_lora_weights.safetensors"),
        ("emoji-edges", ["encoder", "controlnet"], "diffusion_pytorch_model.safetensors"),
    ):
        out, train = tmp_path / folder, load_script(folder, "train")
        assert train.main([*common, "--out", str(out)]) == 0
        said = capsys.readouterr().err
        assert all(f"{stage}: step 2/2, loss " in said for stage in stages)
        assert (out / file).is_file()
        assert train.main([*common, "--out", str(out), "--resume"]) == 0
        assert capsys.readouterr().err.count("finished before, at step 2") == len(stages)
        assert train.main([*common, "--out", str(out), "--base", str(tmp_path / "none")]) == 1
        assert "is not a checkpoint folder: it has no model_index.json" in capsys.readouterr().err
        asked = [str(out), "--data", str(flat_folder), "--base", str(base), "--steps", "2", "--scales", "0", "1"]
        assert load_script(folder, "score").main([*asked, "--json"]) == 0
        assert '"1.0": {' in capsys.readouterr().out

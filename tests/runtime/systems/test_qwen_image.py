"""Qwen-Image against diffusers' own pipeline on a tiny random checkpoint, after every step."""

import inspect
import json
from dataclasses import fields

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from system_pair import compare_system, open_theirs
from tiny_qwen_image import LATENTS, WIDTH, make_qwen_image

from diffoundry.exporter.components.qwen_image_transformer import qwen_image_transformer
from diffoundry.exporter.components.qwen_image_vae import describe_qwen_image_decoder
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.cli.prompt_notes import prompt_notes
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.flux_transformer_2d import pack_latents, unpack_latents
from diffoundry.runtime.models.qwen_image_transformer_2d import centered_positions, text_positions
from diffoundry.runtime.models.rotary import rotary_angles
from diffoundry.runtime.models.vae_tiling import Tiles
from diffoundry.runtime.pipelines.norm_guidance import NormKeepingGuidance

NAME, TO_IMAGE, INPAINT = "QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("qwen-image", make_qwen_image)


@pytest.fixture(scope="module")
def pipelines(exported, folder):
    """Target to the pipeline."""
    bundle = exported(folder, target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(folder):
    """Class to diffusers' pipeline."""
    plain = open_theirs(folder, NAME)
    made = {name: getattr(diffusers, name).from_pipe(plain) for name in (TO_IMAGE, INPAINT)}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return {NAME: plain, **made}


TWO = ["a cat", "a red apple on the table"]

CASES = {
    "defaults": {"prompt": "a cat", "height": 32, "width": 32},
    "wide": {"prompt": "a cat", "height": 24, "width": 48},
    "guidance": {"prompt": TWO, "negative_prompt": ["blue", "a horse on the moon"], "num_images_per_prompt": 2},
    "a long negative prompt": {"prompt": "a cat", "negative_prompt": "a very long snowman " * 9},
    "without guidance": {"prompt": TWO, "negative_prompt": "blue", "true_cfg_scale": 1.0},
    "few tokens": {"prompt": ["a very long snowman " * 9, "a cat"], "max_sequence_length": 150, "negative_prompt": ""},
    "sigmas": {"prompt": "a cat", "sigmas": [1.0, 0.6, 0.2]},
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    for case in CASES if target == "onnxruntime" else ("wide", "guidance"):
        arguments = {"height": 16, "width": 24, "num_inference_steps": 3, **CASES[case]}
        compare_system(pipelines[target], theirs[NAME], **arguments)


SIZE = {"height": 16, "width": 24}
NOISE = Image.effect_noise((24, 16), 90).convert("RGB")
MASK = Image.new("L", NOISE.size)
MASK.paste(255, (4, 5, 19, 12))
GUIDED = {"prompt": TWO, "negative_prompt": ["blue", "a horse on the moon"], "true_cfg_scale": 3.0}
FEW = {"num_inference_steps": 3, **SIZE}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_image_to_image(pipelines, theirs, target):
    ours, reference = pipelines[target], theirs[TO_IMAGE]
    compare_system(ours, reference, watch=False, **FEW, image=NOISE, **GUIDED)
    if target == "onnxruntime":
        large = {
            "image": NOISE.resize((32, 40)),
            "height": 40,
            "width": 32,
            "strength": 1.0,
            "num_images_per_prompt": 2,
        }
        compare_system(ours, reference, watch=False, prompt="a cat", **{**FEW, **large})
        latents = np.random.default_rng(0).standard_normal((1, LATENTS, 8, 12)).astype(np.float32)
        compare_system(
            ours, reference, watch=False, prompt="a cat", num_inference_steps=3, ours_only={"image": latents},
            theirs_only={"image": torch.from_numpy(latents), **SIZE},
        )  # fmt: skip


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_inpainting(pipelines, theirs, target):
    ours, reference, images = pipelines[target], theirs[INPAINT], {"image": NOISE, "mask_image": MASK}
    compare_system(ours, reference, watch=False, **FEW, **images, **GUIDED)
    if target == "onnxruntime":
        large = {"height": 40, "width": 32, "strength": 1.0, "num_images_per_prompt": 2}
        compare_system(ours, reference, watch=False, prompt="a cat", **{**FEW, **large}, **images)
        several = {"image": [NOISE, NOISE.rotate(180)], "mask_image": [MASK, MASK.rotate(180)]}
        compare_system(ours, reference, watch=False, prompt=TWO, **FEW, **several, strength=0.4)


def test_tables_are_diffusers():
    """Angles also far from the origin, and packed tokens whose length guidance keeps."""
    embed = diffusers.QwenImageTransformer2DModel(num_layers=1, num_attention_heads=1).pos_embed
    grids = (64, 91), (3, 130)
    image, text = embed([[(1, *grid) for grid in grids]], max_txt_seq_len=500)
    places = [centered_positions(index, *grid).reshape(-1, 3) for index, grid in enumerate(grids)]
    for positions, expected in ((np.concatenate(places), image), (text_positions(grids, 500), text)):
        cos, sin = rotary_angles(positions, embed.axes_dim, embed.theta, dtype=np.float32)
        np.testing.assert_allclose(cos + 1j * sin, expected, atol=2e-6)
    first, second = torch.randn(2, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    guided = second + 3.0 * (first - second)
    expected = guided * (first.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
    rows = (unpack_latents(one.reshape(2, 2, 3, 16).numpy()) for one in (second, first))
    given = NormKeepingGuidance(scale=3.0).combine(np.concatenate(list(rows)))
    np.testing.assert_allclose(pack_latents(given).reshape(2, 6, 16), expected, rtol=1e-5)


def test_embeddings_and_latents(pipelines, theirs):
    """Embeddings of different lengths, and latents as diffusers has them."""
    ours, reference = pipelines["onnxruntime"], theirs[NAME]
    states, mask = reference._get_qwen_prompt_embeds(["a cat", "a red apple on the table"])
    negative, _ = reference._get_qwen_prompt_embeds(["a horse on the moon that says nothing"] * 2)
    tensors = {
        "prompt_embeds": states.detach(),
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": negative.detach(),
    }
    latents = torch.randn((2, 4 * 6, 4 * LATENTS), generator=torch.Generator().manual_seed(1))
    arrays = {name: tensor.numpy().astype(np.float32) for name, tensor in tensors.items()}
    compare_system(
        ours, reference, height=16, width=24, num_inference_steps=2,
        ours_only={"latents": latents.numpy(), **arrays}, theirs_only={"latents": latents, **tensors},
    )  # fmt: skip


def test_defaults_are_diffusers(pipelines):
    ours = pipelines["onnxruntime"]
    assert ours.default_size == (256, 256), "128 latents, each of 2 pixels"
    for name, task in ((NAME, "text_to_image"), (TO_IMAGE, "image_to_image"), (INPAINT, "inpainting")):
        parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
        for argument, value in ours.family.defaults[task].items():
            assert parameters[argument].default == value, (name, argument)
        for field in fields(ours.family.Inputs):
            assert parameters[field.name].default == field.default, (name, field.name)
    cut = ours("a horse " * 200, num_inference_steps=2, height=16, width=16, max_sequence_length=150)
    assert cut.truncated[0].endswith("horse ")


STATES = np.zeros((1, 9, WIDTH), np.float32)
ERRORS = {
    "tokens": ({"max_sequence_length": 1025}, "max_sequence_length: got 1025, expected .* at least 1 and at most 1024"),
    "a scale": ({"true_cfg_scale": -1.0}, "true_cfg_scale: got -1.0, expected a number of at least 0"),
    "a size": (
        {"height": 18}, "height: got 18, expected a multiple of 4: a latent has 2 pixels and the denoiser takes mult",
    ),
    "a mask alone": (
        {"prompt_embeds_mask": np.ones((1, 9), np.float32)},
        r"prompt_embeds_mask: got shape \(1, 9\), expected prompt_embeds too",
    ),
    "another mask": (
        {"prompt": None, "prompt_embeds": STATES, "prompt_embeds_mask": np.ones((1, 8), np.float32)},
        r"prompt_embeds_mask: got shape \(1, 8\), expected its \(1, 9\)",
    ),
    "other embeddings": (
        {"prompt": None, "prompt_embeds": STATES, "negative_prompt_embeds": np.zeros((1, 9, 5), np.float32)},
        "negative_prompt_embeds: got width 5, expected that of prompt_embeds, 32",
    ),
    "one step": ({"num_inference_steps": 1}, "'shift_terminal' = 0.02 stretches the way .* Take more steps"),
}  # fmt: skip


def test_wrong_arguments_are_refused(pipelines, monkeypatch):
    ours = pipelines["onnxruntime"]
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start(**{"prompt": "a cat", "height": 16, "width": 16, **arguments})
    monkeypatch.setattr(type(ours.denoiser), "token_limit", 20)
    with pytest.raises(InputError, match=r"prompt: got \d+ tokens, expected at most 20: the engine of 'transformer'"):
        ours.start("a cat", height=16, width=16)


CONFIGS = {
    "in_channels": (64, "expected 16, 2 x 2 times the z_dim of the VAE"),
    "out_channels": (3, "expected 16, 2 x 2 times the z_dim of the VAE"),
    "patch_size": (1, "expected 2, as the pipelines of diffusers pack latents"),
    "axes_dims_rope": ([4, 6, 8], "expected three even numbers that add up to 16"),
    "guidance_embeds": (True, "expected false: no other network of this class is supported"),
    "zero_cond_t": (True, "expected false: only a pipeline that edits images has other images"),
}
VAE_CONFIGS = {
    "temperal_downsample": ([], "expected a list of 1, one less than dim_mult"),
    "attn_scales": ([1.0], r"expected \[\]: diffusers cannot run other networks"),
}


def test_configs_that_are_refused(folder):
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in ("transformer", "vae")}
    described = {"transformer": qwen_image_transformer(512).describe, "vae": describe_qwen_image_decoder}
    assert described["transformer"](configs).usual == {"sequence": 512, "height": 256, "width": 256}
    for part, wrong in (("transformer", CONFIGS), ("vae", VAE_CONFIGS)):
        for field, (value, words) in wrong.items():
            with pytest.raises(ConfigError, match=f"{part}/config.json: field '{field}': got .*, {words}"):
                described[part]({**configs, part: {**configs[part], field: value}})


def test_options_without_effect_are_noted(pipelines):
    """diffusers ignores them too. The scale is above 1 by default."""
    for settings, words in (
        ({"negative_prompt": "blue"}, None),
        (
            {"negative_prompt": "blue", "true_cfg_scale": 1.0},
            "--negative-prompt has no effect without --true-cfg-scale",
        ),
        ({"true_cfg_scale": 3.0}, "--true-cfg-scale has no effect without --negative-prompt, which may be empty"),
        ({"guidance_scale": 3.0}, "--guidance-scale has no effect, because this transformer does not take it"),
    ):
        notes = prompt_notes(pipelines["onnxruntime"], {"prompt": "a cat", **settings})
        assert [note.startswith(words or "?") for note in notes] == [True] * (words is not None)


def test_tiles_are_diffusers(pipelines, theirs, monkeypatch):
    """Smaller ones than by default, of an image of three by two, encoded and decoded."""
    ours, vae = pipelines["onnxruntime"].vae, theirs[NAME].vae
    assert ours.own_tiles() == Tiles(pixels=vae.tile_sample_min_height, latents=vae.tile_sample_min_height // 2)
    monkeypatch.setattr(ours, "tiles", Tiles(pixels=32, latents=16))
    monkeypatch.setattr(vae, "use_tiling", True)
    for side in ("height", "width"):
        monkeypatch.setattr(vae, f"tile_sample_min_{side}", 32)
        monkeypatch.setattr(vae, f"tile_sample_stride_{side}", 24)
    pixels = torch.rand((1, 3, 60, 40), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pixels[:, :, None]).latent_dist.mode()
        images = vae.decode(latents).sample
    np.testing.assert_allclose(ours.mode(pixels.numpy()), latents[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(ours.decode(latents[:, :, 0].numpy()), images[:, :, 0], atol=1e-5)


def test_generate(pipelines, tmp_path):
    ours = pipelines["onnxruntime"]
    options = ["--steps=2", "--seed=3", "--negative-prompt=blue", "--height=16", "--width=24", "--true-cfg-scale=3"]
    told = CliRunner().invoke(
        generate, [str(ours.session.bundle.root), "a cat", *options, "--target=onnxruntime", f"-o{tmp_path}/out.png"]
    )
    assert told.exit_code == 0, told.output
    settings = {"num_inference_steps": 2, "seed": 3, "negative_prompt": "blue", "height": 16, "width": 24}
    (image,) = ours("a cat", **settings, true_cfg_scale=3.0).images
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(image))

"""Z-Image against diffusers' own pipelines on a tiny random checkpoint, after every step."""

import inspect
import json

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.models.transformers.transformer_z_image import RopeEmbedder
from PIL import Image
from system_pair import compare_system, open_theirs
from tiny_z_image import WIDTH as STATES
from tiny_z_image import make_z_image

from diffoundry.exporter.components.z_image_transformer import z_image_transformer
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.rotary import rotary_angles
from diffoundry.runtime.models.z_image_transformer_2d import pack_latents, unpack_latents

TO_IMAGE, INPAINT = "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"
WIDTH, HEIGHT = 24, 16
NOISE = Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB")
MASK = Image.new("L", (WIDTH, HEIGHT))
MASK.paste(255, (4, 5, 19, 12))
TWO = ["a cat", "a red apple on the table, an astronaut that rides a horse on the moon " * 3]
FEW = {"num_inference_steps": 3, "height": HEIGHT, "width": WIDTH}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("z-image", make_z_image)


@pytest.fixture(scope="module")
def pipelines(exported, folder):
    """Target to the pipeline."""
    bundle = exported(folder, target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(folder):
    plain = open_theirs(folder, "ZImagePipeline")
    made = {name: getattr(diffusers, name).from_pipe(plain) for name in (TO_IMAGE, INPAINT)}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return {"ZImagePipeline": plain, **made}


CASES = {
    "turbo": {"prompt": "a cat", "guidance_scale": 0.0, "height": 32, "width": 32},
    "guided": {
        "prompt": TWO, "negative_prompt": ["blue " * 40, ""], "num_images_per_prompt": 2, "height": 40,
        "cfg_normalization": True, "max_sequence_length": 100,
    },
    "truncated": {"prompt": TWO, "cfg_truncation": 0.4, "guidance_scale": 0.5, "cfg_normalization": 0.9},
    "without an end": {"prompt": "", "cfg_truncation": None, "sigmas": [1.0, 0.6, 0.2]},
}  # fmt: skip


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    for case in CASES if target == "onnxruntime" else ("guided",):
        compare_system(pipelines[target], theirs["ZImagePipeline"], **{**FEW, **CASES[case]})


def test_from_images(pipelines, theirs):
    ours = pipelines["onnxruntime"]
    several = {"prompt": TWO, "num_images_per_prompt": 2, "negative_prompt": ["blue", ""], "watch": False, **FEW}
    compare_system(ours, theirs[TO_IMAGE], image=NOISE, **several)
    compare_system(ours, theirs[INPAINT], image=NOISE, mask_image=MASK, **several)
    several |= {"prompt": "a cat", "negative_prompt": None, "guidance_scale": 0.0}
    compare_system(ours, theirs[INPAINT], image=NOISE, mask_image=MASK, strength=0.5, **several)


def test_packing_is_diffusers(theirs):
    latents = np.random.default_rng(0).standard_normal((2, 3, 6, 10)).astype(np.float32)
    tokens = pack_latents(latents)
    for row, image in zip(tokens, torch.from_numpy(latents)[:, :, None], strict=True):
        expected, _, sides = theirs["ZImagePipeline"].transformer._patchify_image(image, 2, 1)
        assert sides == (1, *row.shape[:2])
        np.testing.assert_array_equal(row.reshape(expected.shape), expected)
    np.testing.assert_array_equal(unpack_latents(tokens), latents)


def test_angles_are_diffusers():
    """Also far from the origin, where angles are rounded."""
    embed = RopeEmbedder(axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512])
    places = np.stack([np.arange(0, 1500, 5), np.arange(300) + 200, np.arange(300)[::-1] + 100], axis=-1)
    expected = embed(torch.from_numpy(places))
    cos, sin = rotary_angles(places.astype(np.float64), embed.axes_dims, embed.theta, rounded=True)
    np.testing.assert_allclose(cos, expected.real, rtol=0, atol=1e-7)
    np.testing.assert_allclose(sin, expected.imag, rtol=0, atol=1e-7)


def test_embeddings(pipelines, theirs):
    """Those of the negative prompt may have another number of tokens, and none is padded."""
    ours, reference = pipelines["onnxruntime"], theirs["ZImagePipeline"]
    positive, negative = reference.encode_prompt(["a red apple"], negative_prompt=["blue and green"])
    assert len(positive[0]) != len(negative[0])
    compare_system(
        ours, reference, **FEW,
        ours_only={"prompt_embeds": positive[0].detach().numpy()[None],
                   "negative_prompt_embeds": negative[0].detach().numpy()[None]},
        theirs_only={"prompt_embeds": positive, "negative_prompt_embeds": negative},
    )  # fmt: skip


def test_latents_of_the_caller(pipelines, theirs):
    """Inpainting draws other noise for the kept part, as diffusers does."""
    latents = torch.randn((1, 4, HEIGHT // 2, WIDTH // 2), generator=torch.Generator().manual_seed(1))
    for name, images in (("ZImagePipeline", {}), (INPAINT, {"image": NOISE, "mask_image": MASK})):
        compare_system(
            pipelines["onnxruntime"], theirs[name], prompt="a cat", guidance_scale=0.0, watch=False, **FEW, **images,
            ours_only={"latents": latents.numpy()}, theirs_only={"latents": latents},
        )  # fmt: skip


def test_defaults_are_diffusers(pipelines):
    ours = pipelines["onnxruntime"]
    assert ours.default_size == (256, 256), "128 latents, each of 2 pixels"
    for name, task in (("ZImagePipeline", "text_to_image"), (TO_IMAGE, "image_to_image"), (INPAINT, "inpainting")):
        defaults = ours.family.defaults[task]
        parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
        assert {argument: parameters[argument].default for argument in defaults} == defaults, name
        for argument in ("cfg_normalization", "cfg_truncation", "max_sequence_length"):
            assert ours.family.Inputs.__dataclass_fields__[argument].default == parameters[argument].default


def test_long_prompts_are_cut(pipelines):
    """The text after a prompt is cut off too, as in diffusers, but is none of the prompt."""
    ours = pipelines["onnxruntime"]
    for prompt, cut in (("a cat", False), ("a red apple " * 30, True)):
        made = ours(prompt, num_inference_steps=1, height=16, width=16, max_sequence_length=24, guidance_scale=0.0)
        assert bool(made.truncated[0]) is cut
        assert "im_end" not in made.truncated[0]


EMBEDDINGS = np.zeros((1, 700, STATES), np.float32)
ERRORS = {
    "tokens": ({"max_sequence_length": 1}, "max_sequence_length: got 1, expected a whole number of at least 2"),
    "a norm": ({"cfg_normalization": -1.0}, "cfg_normalization: got -1.0, expected a number of at least 0"),
    "an end": ({"cfg_truncation": "x"}, "cfg_truncation: got 'x', expected a number of at least 0"),
    "a size": (
        {"height": 18}, "height: got 18, expected a multiple of 4: a latent has 2 pixels and the denoiser takes mult",
    ),
    "both": ({"prompt_embeds": EMBEDDINGS}, "prompt and prompt_embeds: got both, expected one of them"),
    "both negative": (
        {"negative_prompt": "a", "negative_prompt_embeds": EMBEDDINGS},
        "negative_prompt and negative_prompt_embeds: got both, expected one of them",
    ),
    "long embeddings": (
        {"prompt": None, "prompt_embeds": EMBEDDINGS}, "prompt_embeds: got 700 tokens, expected at most 608: 'transf",
    ),
    "a clip_skip": ({"clip_skip": 1}, "clip_skip"),
}  # fmt: skip


def test_wrong_arguments_are_refused(pipelines, monkeypatch):
    ours = pipelines["onnxruntime"]
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start(**{"prompt": "a cat", "height": 16, "width": 16, **arguments})
    monkeypatch.setattr(type(ours.denoiser), "token_limit", 32)
    with pytest.raises(InputError, match=r"max_sequence_length: got \d+ tokens, expected at most 32: 'transformer'"):
        ours.start("a red apple " * 30)
    assert len(ours.start("a cat", height=16, width=16, num_inference_steps=1).finish().images) == 1


CONFIGS = {
    "in_channels": (16, "expected 4, the latent_channels of the VAE"),
    "all_patch_size": ([4], "expected 2 with an all_f_patch_size of 1"),
    "axes_dims": ([4, 6, 8], "expected three even numbers that add up to 16"),
    "axes_lens": ([64, 64], "expected three numbers"),
    "cap_feat_dim": (64, "expected 32, the hidden_size of the text encoder"),
}


def test_configs_that_are_refused(folder):
    configs = {
        name: json.loads((folder / name / "config.json").read_text()) for name in ("text_encoder", "transformer", "vae")
    }
    describe = z_image_transformer(512).describe
    component = describe(configs)
    assert component.usual == {"sequence": 512, "height": 256, "width": 256}
    assert component.sizes["height"].max == 64 * 4
    for field, (value, words) in CONFIGS.items():
        with pytest.raises(ConfigError, match=f"transformer/config.json: field '{field}': got .*, {words}"):
            describe({**configs, "transformer": {**configs["transformer"], field: value}})
    with pytest.raises(ConfigError, match=r"'axes_lens': got \[640, 64, 64\], expected more than 641 positions for a"):
        z_image_transformer(640).describe(configs)


def test_generate(pipelines, tmp_path):
    ours = pipelines["onnxruntime"]
    options = [
        "--steps=2", "--seed=3", "--negative-prompt=blue", "--guidance-scale=4", "--height=16", "--width=24",
        "--cfg-normalization=0.9", "--cfg-truncation=0.3", "--max-sequence-length=60",
    ]  # fmt: skip
    told = CliRunner().invoke(
        generate, [str(ours.session.bundle.root), "a cat", *options, "--target=onnxruntime", f"-o{tmp_path}/out.png"]
    )
    assert told.exit_code == 0, told.output
    (image,) = ours(
        "a cat", num_inference_steps=2, seed=3, negative_prompt="blue", guidance_scale=4.0, height=16, width=24,
        cfg_normalization=0.9, cfg_truncation=0.3, max_sequence_length=60,
    ).images  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(image))

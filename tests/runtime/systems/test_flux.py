"""FLUX.1 against diffusers' own pipeline on tiny random checkpoints, after every step."""

import inspect
import json

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from tiny_flux import DEV, LATENTS, SCHNELL, WIDTH, make_flux

from diffoundry.exporter.components.flux_transformer import flux_transformer
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.cli.prompt_notes import prompt_notes
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.flux_transformer_2d import pack_latents, unpack_latents
from diffoundry.runtime.models.rotary import grid_positions, rotary_angles
from diffoundry.runtime.schedulers import UniPCMultistepScheduler

FLUX = "FluxPipeline"
CONFIG_FOLDERS = ("text_encoder", "transformer", "vae")


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    return {
        "dev": system_checkpoint("flux-dev", lambda folder: make_flux(folder, **DEV)),
        "schnell": system_checkpoint("flux-schnell", lambda folder: make_flux(folder, scheduler={}, **SCHNELL)),
    }


@pytest.fixture(scope="module")
def pipelines(exported, folders):
    """Name and target to the pipeline."""
    dev = exported(folders["dev"], target="onnxruntime,openvino")
    return {
        ("dev", "onnxruntime"): load(dev, target="onnxruntime"),
        ("dev", "openvino"): load(dev, target="openvino"),
        ("schnell", "onnxruntime"): load(exported(folders["schnell"])),
    }


@pytest.fixture(scope="module")
def theirs(folders):
    return {name: open_theirs(folder, FLUX) for name, folder in folders.items()}


TWO = ["a cat", "a red apple on the table"]
GUIDED = {"true_cfg_scale": 4.0, "negative_prompt": ["blue", ""], "negative_prompt_2": ["green", "a dog"]}

CASES = {
    "defaults": {"prompt": "a cat", "height": 32, "width": 32, "max_sequence_length": 512},
    "wide": {"prompt": "a cat", "prompt_2": "a very long snowman " * 9, "height": 24, "width": 48},
    "true guidance": {"prompt": TWO, "num_images_per_prompt": 2, "guidance_scale": 6.0, "height": 40, **GUIDED},
    "without a negative prompt": {"prompt": TWO, "true_cfg_scale": 4.0, "guidance_scale": 1.0},
    "sigmas": {"prompt": "a cat", "sigmas": [1.0, 0.6, 0.2]},
}


@pytest.mark.parametrize(("name", "target"), [("dev", "onnxruntime"), ("dev", "openvino"), ("schnell", "onnxruntime")])
def test_every_step_is_diffusers(pipelines, theirs, name, target):
    for case in CASES if target == "onnxruntime" else ("wide", "true guidance"):
        arguments = {"height": 16, "width": 24, "max_sequence_length": 20, "num_inference_steps": 3, **CASES[case]}
        compare_system(pipelines[name, target], theirs[name], **arguments)


def test_angles_are_diffusers(theirs):
    """Also far from the origin, of images in another place."""
    embed = theirs["dev"].transformer.pos_embed
    for first, rows, columns in ((0, 64, 91), (1, 3, 130)):
        places = grid_positions(first, rows, columns)
        expected = embed(torch.from_numpy(places.reshape(-1, 3)))
        for ours, table in zip(rotary_angles(places, embed.axes_dim, embed.theta), expected, strict=True):
            np.testing.assert_allclose(ours.reshape(rows * columns, -1), table[:, ::2], atol=1e-7)


def test_packing_is_diffusers():
    latents = np.random.default_rng(0).standard_normal((2, 3, 6, 10)).astype(np.float32)
    expected = diffusers.FluxPipeline._pack_latents(torch.from_numpy(latents), 2, 3, 6, 10)
    tokens = pack_latents(latents)
    np.testing.assert_array_equal(tokens.reshape(expected.shape), expected)
    np.testing.assert_array_equal(unpack_latents(tokens), latents)


def test_embeddings_and_latents(pipelines, theirs):
    """Latents as diffusers has them, tokens in a row, or in the shape that steps and results have here."""
    ours, reference = pipelines["dev", "onnxruntime"], theirs["dev"]
    texts = ("a cat", "a blue dog")
    made = [reference.encode_prompt(text, None, max_sequence_length=9)[:2] for text in texts]
    names = ("prompt_embeds", "pooled_prompt_embeds")
    tensors = {
        prefix + name: tensor.detach()
        for prefix, pair in zip(("", "negative_"), made, strict=True)
        for name, tensor in zip(names, pair, strict=True)
    }
    latents = torch.randn((1, 4 * 6, 4 * LATENTS), generator=torch.Generator().manual_seed(1))
    spatial = ours.family.unpack(latents.numpy(), (1, LATENTS, 8, 12))
    assert spatial.shape == (1, LATENTS, 8, 12)
    for own in (latents.numpy(), spatial):
        compare_system(
            ours, reference, height=16, width=24, num_inference_steps=2, true_cfg_scale=3.0,
            ours_only={"latents": own, **{name: tensor.numpy() for name, tensor in tensors.items()}},
            theirs_only={"latents": latents, **tensors},
        )  # fmt: skip


def test_a_callback_sees_and_changes_what_diffusers_does(pipelines, theirs):
    def halve(_pipeline, index, _timestep, tensors):
        assert set(tensors) == {"latents", "prompt_embeds"}
        return {"prompt_embeds": tensors["prompt_embeds"] * (0.5 if index == 0 else 1.0)}

    arguments = {
        "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent", "max_sequence_length": 9,
        "callback_on_step_end": halve, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }  # fmt: skip
    ours = pipelines["dev", "onnxruntime"]
    given = ours("a cat", seed=0, **arguments).images
    expected = theirs["dev"]("a cat", generator=torch.Generator().manual_seed(0), **arguments).images
    np.testing.assert_allclose(ours.pack(given), expected.numpy(), atol=1e-4)


def test_schedulers_that_place_sigmas_themselves(pipelines, theirs, monkeypatch):
    """diffusers passes no sigmas to schedulers with `use_flow_sigmas`; one that takes none is refused there."""
    flow = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0)
    monkeypatch.setattr(theirs["dev"], "scheduler", flow)
    own = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0)
    arguments = {"prompt": "a cat", "height": 16, "width": 16, "num_inference_steps": 3, "max_sequence_length": 9}
    ours = pipelines["dev", "onnxruntime"]
    compare_system(ours, theirs["dev"], ours_only={"scheduler": own}, **arguments)
    assert np.isfinite(ours(**arguments, scheduler="FlowMatchHeunDiscrete", output_type="latent").images).all()


def test_every_text_and_scale_counts(pipelines):
    """With random networks too, so that one which is not read would be seen."""
    settings = {"seed": 0, "num_inference_steps": 2, "height": 16, "width": 16, "max_sequence_length": 9}
    guided = {"negative_prompt": "blue", "true_cfg_scale": 4.0}
    changes = ({}, {"prompt_2": "snow"}, {"guidance_scale": 1.0}, guided, {**guided, "negative_prompt_2": "snow"})
    images = [
        pipelines["dev", "onnxruntime"]("a red apple", output_type="latent", **settings, **change).images
        for change in changes
    ]
    for index, image in enumerate(images):
        assert all(np.abs(image - other).max() > 1e-3 for other in images[:index]), changes[index]


def test_defaults_are_diffusers(pipelines):
    ours = pipelines["dev", "onnxruntime"]
    assert ours.default_size == (256, 256), "128 latents, each of 2 pixels"
    for argument, parameter in inspect.signature(diffusers.FluxPipeline.__call__).parameters.items():
        own = ours.family.Inputs.__dataclass_fields__.get(argument)
        if own is not None:
            assert own.default == parameter.default, argument
        elif argument in ours.family.defaults["text_to_image"]:
            assert ours.family.defaults["text_to_image"][argument] == parameter.default, argument
    assert ours("a " * 600, num_inference_steps=1, height=16, width=16).truncated[0].startswith("a")


STATES, POOLED = np.zeros((1, 9, WIDTH), np.float32), np.zeros((1, 32), np.float32)
ERRORS = {
    "tokens": ({"max_sequence_length": 513}, "max_sequence_length: got 513, expected .* at least 2 and at most 512"),
    "a scale": ({"true_cfg_scale": -1.0}, "true_cfg_scale: got -1.0, expected a number of at least 0"),
    "texts": ({"prompt_2": ["a", "b"]}, "prompt_2: got 2 entries, expected a string or 1 of them"),
    "a size": (
        {"height": 18}, "height: got 18, expected a multiple of 4: a latent has 2 pixels and the denoiser takes mult",
    ),
    "no pooled": (
        {"prompt": None, "prompt_embeds": STATES},
        "prompt_embeds and pooled_prompt_embeds: got one of them, expected both",
    ),
    "both": (
        {"prompt": None, "prompt_embeds": STATES, "pooled_prompt_embeds": POOLED, "prompt_2": "a cat"},
        "prompt_2 and prompt_embeds: got both, expected one of them",
    ),
    "latents": (
        {"latents": np.zeros((1, 5, 16), np.float32)}, r"latents: got shape \(1, 5, 16\), expected \(1, 4, 8, 8\)",
    ),
    "a strength": ({"strength": 0.5}, "strength: text to image has no such argument; pass image for image to image"),
    "clip_skip": ({"clip_skip": 1}, "clip_skip"),
}  # fmt: skip


def test_wrong_arguments_are_refused(pipelines, monkeypatch):
    ours = pipelines["dev", "onnxruntime"]
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start(**{"prompt": "a cat", "height": 16, "width": 16, **arguments})
    monkeypatch.setattr(type(ours.denoiser), "token_limit", 512)
    with pytest.raises(InputError, match=r"max_sequence_length: got 20 tokens, expected 512: the engine of 'transf"):
        ours.start("a cat", max_sequence_length=20)
    embeddings = {"prompt_embeds": STATES, "pooled_prompt_embeds": POOLED}
    with pytest.raises(InputError, match=r"prompt_embeds: got 9 tokens, expected 512"):
        ours.start(None, **embeddings)


CONFIGS = {
    "in_channels": (384, "expected 16, 2 x 2 times the latent_channels of the VAE"),
    "out_channels": (18, "expected a multiple of 4, the latents of a token"),
    "patch_size": (2, "expected 1"),
    "pooled_projection_dim": (768, "expected 32, the hidden_size of the CLIP text encoder"),
    "axes_dims_rope": ([4, 6, 8], "expected three even numbers that add up to 16"),
    "guidance_embeds": (1, "expected true or false"),
}


def test_configs_that_are_refused(folders):
    configs = {name: json.loads((folders["dev"] / name / "config.json").read_text()) for name in CONFIG_FOLDERS}
    describe = flux_transformer(512).describe
    assert describe(configs).usual == {"sequence": 512, "height": 256, "width": 256}
    for field, (value, words) in CONFIGS.items():
        with pytest.raises(ConfigError, match=f"transformer/config.json: field '{field}': got .*, {words}"):
            describe({**configs, "transformer": {**configs["transformer"], field: value}})


def test_options_without_effect_are_noted(pipelines):
    """diffusers ignores them too."""
    dev, schnell = pipelines["dev", "onnxruntime"], pipelines["schnell", "onnxruntime"]
    for pipeline, settings, words in (
        (dev, {"negative_prompt": "blue"}, "--negative-prompt has no effect without --true-cfg-scale above 1"),
        (dev, {"true_cfg_scale": 3.0}, "--true-cfg-scale has no effect without --negative-prompt, which may be empty"),
        (schnell, {"guidance_scale": 3.0}, "--guidance-scale has no effect, because this transformer does not take it"),
        (dev, {"negative_prompt": "", "true_cfg_scale": 3.0, "guidance_scale": 3.0}, None),
    ):
        assert prompt_notes(pipeline, {"prompt": "a cat", **settings}) == ([] if words is None else [words])


def test_generate(pipelines, tmp_path):
    ours = pipelines["dev", "onnxruntime"]
    options = [
        "--steps=2", "--seed=3", "--negative-prompt=blue", "--guidance-scale=4", "--height=16", "--width=24",
        "--true-cfg-scale=3", "--prompt-2=a dog", "--negative-2=green", "--max-sequence-length=20",
    ]  # fmt: skip
    told = CliRunner().invoke(
        generate, [str(ours.session.bundle.root), "a cat", *options, "--target=onnxruntime", f"-o{tmp_path}/out.png"]
    )
    assert told.exit_code == 0, told.output
    (image,) = ours(
        "a cat", num_inference_steps=2, seed=3, negative_prompt="blue", guidance_scale=4.0, height=16, width=24,
        true_cfg_scale=3.0, prompt_2="a dog", negative_prompt_2="green", max_sequence_length=20,
    ).images  # fmt: skip
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "out.png")), np.asarray(image))

"""Z-Image Omni against diffusers' own pipeline on a tiny random checkpoint, after every step."""

import inspect
import json

import diffusers
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from PIL import Image
from system_pair import compare_system
from tiny_z_image import WIDTH as STATES
from tiny_z_image import make_z_image_omni

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.components.z_image_omni_transformer import z_image_omni_transformer
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.images.siglip2_processor import Siglip2Processor
from diffoundry.runtime.models.siglip2_vision import interpolation_weights
from diffoundry.runtime.models.z_image_omni_transformer_2d import ImageGrid, OmniFeeds, feature_feeds

CLASS = "ZImageOmniPipeline"
TALL = Image.effect_noise((90, 120), 90).convert("RGB")
WIDE = Image.radial_gradient("L").resize((130, 70)).convert("RGB")
LARGE = Image.effect_noise((1300, 900), 90).convert("RGB")
TWO = ["a cat", "a red apple on the table, an astronaut that rides a horse on the moon " * 3]
FEW = {"num_inference_steps": 2, "watch": False}
SIZE = {"height": 64, "width": 48}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint(f"class-{CLASS}", make_z_image_omni)


@pytest.fixture(scope="module")
def pipelines(exported, folder):
    """Target to the pipeline."""
    bundle = exported(folder, target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def ours(pipelines):
    return pipelines["onnxruntime"]


@pytest.fixture(scope="module")
def theirs(folder):
    return reference_pipeline(open_checkpoint(str(folder)))


CASES = {
    "no image": {"prompt": "a cat", **SIZE},
    "no image, several": {
        "prompt": TWO, "negative_prompt": ["blue " * 40, ""], "num_images_per_prompt": 2, "height": 40, "width": 48,
    },
    "one": {"prompt": "a cat", "image": TALL, "guidance_scale": 0.0, **SIZE},
    "one, guided": {
        "prompt": TWO, "image": [WIDE], "negative_prompt": ["blue " * 40, ""], "cfg_normalization": 0.9,
        "cfg_truncation": 0.4, **SIZE,
    },
    "two": {
        "prompt": TWO, "image": [TALL, WIDE], "num_images_per_prompt": 2, "negative_prompt": ["", "blue and green"],
    },
    "a large one": {"prompt": "a red apple " * 20, "image": [TALL, LARGE], "max_sequence_length": 60, **SIZE},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    """The size of a result follows from the last image."""
    for name, case in CASES.items():
        images = compare_system(pipelines[target], theirs, **FEW, **case)
        if name == "two":
            assert images.shape == (4, 68, 128, 3)


@pytest.mark.slow
def test_latents_and_embeddings_of_the_caller(ours, theirs):
    latents = torch.randn((1, 4, 32, 24), generator=torch.Generator().manual_seed(1))
    compare_system(
        ours, theirs, prompt="a cat", image=WIDE, **FEW, **SIZE,
        ours_only={"latents": latents.numpy()}, theirs_only={"latents": latents},
    )  # fmt: skip
    positive, negative = theirs.encode_prompt(["a red apple"], negative_prompt=["blue and green"])
    compare_system(
        ours, theirs, **FEW, **SIZE,
        ours_only={"prompt_embeds": positive[0][0].detach().numpy()[None],
                   "negative_prompt_embeds": negative[0][0].detach().numpy()[None]},
        theirs_only={"prompt_embeds": positive, "negative_prompt_embeds": negative},
    )  # fmt: skip


@pytest.mark.slow
def test_defaults_are_diffusers(ours):
    parameters = inspect.signature(getattr(diffusers, CLASS).__call__).parameters
    given = ours.start("a cat", image=TALL, seed=0).arguments
    for name in (
        "num_inference_steps", "guidance_scale", "cfg_normalization", "cfg_truncation", "max_sequence_length",
    ):  # fmt: skip
        assert given[name] == parameters[name].default, name
    assert ours.default_size == (256, 256), "128 latents, each of 2 pixels"


EMBEDDINGS = np.zeros((1, 700, STATES), np.float32)
ERRORS = {
    "a list": ({"image": []}, "image: got an empty list, expected at least one image; leave it out to use none"),
    "a small one": ({"image": WIDE.resize((90, 40))}, "image: got 90 x 40 pixels, expected at least 64 to a side"),
    "a number": ({"image": 1}, "image: got int, expected a PIL image, or a list of PIL images"),
    "embeddings": (
        {"prompt": None, "prompt_embeds": EMBEDDINGS[:, :9], "image": TALL},
        "prompt_embeds: got one with image, expected a text: a text with images is encoded in several parts; pass prom",
    ),
    "negative embeddings": (
        {"negative_prompt_embeds": EMBEDDINGS[:, :9], "image": TALL},
        "negative_prompt_embeds: got one with image, expected a text: .*; pass negative_prompt",
    ),
    "long embeddings": (
        {"prompt": None, "prompt_embeds": EMBEDDINGS},
        "prompt_embeds: got 704 tokens, those of images and of padding included, expected at most 608: 'transformer' t",
    ),
    "a narrow one": (
        {"image": Image.new("RGB", (8000, 1000)), "height": 4, "width": 8},
        "image: got 16 x 2 pixels after it was made as small as the result, expected at least 4 to a side; crop it",
    ),
    "a mask": ({"mask_image": TALL}, "mask_image"),
}  # fmt: skip


@pytest.mark.slow
def test_wrong_arguments_are_refused(ours, monkeypatch):
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start(**{"prompt": "a cat", **SIZE, **arguments})
    monkeypatch.setattr(type(ours.denoiser), "takes_images", False)
    with pytest.raises(InputError, match="image: the engine of 'transformer' was made for prompts alone; leave it out"):
        ours.start("a cat", image=TALL)
    monkeypatch.setattr(type(ours.denoiser), "token_limit", 32)
    with pytest.raises(InputError, match=r"max_sequence_length: got \d+ tokens, .* expected at most 32: 'transformer'"):
        ours.start("a red apple " * 30)


@pytest.mark.slow
def test_only_the_prompt_is_called_cut(ours):
    for prompt, cut in (("a cat", False), ("a red apple " * 30, True)):
        made = ours(prompt, image=TALL, num_inference_steps=1, max_sequence_length=40, guidance_scale=0.0, **SIZE)
        assert bool(made.truncated[0]) is cut
        assert "im_end" not in made.truncated[0]


@pytest.mark.slow
def test_generate(ours, tmp_path):
    TALL.save(tmp_path / "a.png")
    WIDE.save(tmp_path / "b.png")
    options = ["--steps=2", "--seed=3", "--negative-prompt=blue", "--guidance-scale=4", "--cfg-truncation=0.9"]
    told = CliRunner().invoke(
        generate,
        [
            str(ours.session.bundle.root), "a cat", *options, "--target=onnxruntime", f"-o{tmp_path}/out.png",
            f"--image={tmp_path}/a.png", f"--image={tmp_path}/b.png",
        ],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    (image,) = ours(
        "a cat", image=[TALL, WIDE], num_inference_steps=2, seed=3, negative_prompt="blue", guidance_scale=4.0,
        cfg_truncation=0.9,
    ).images  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(image))


def test_prepared_images_are_transformers():
    """Small, large and narrow images; the number of patches is limited, and their ratio kept."""
    theirs = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=40)
    ours = Siglip2Processor.from_config(json.loads(theirs.to_json_string()))
    for image in (TALL, WIDE, LARGE, WIDE.resize((300, 40)), WIDE.resize((7, 5))):
        expected = theirs(images=[image], return_tensors="np")
        patches, rows, columns = ours(image)
        assert (rows, columns) == tuple(expected["spatial_shapes"][0])
        np.testing.assert_allclose(patches, expected["pixel_values"][0][: rows * columns], rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="field 'do_normalize': got false, expected true: the image encoder of Z-Im"):
        Siglip2Processor.from_config({"do_normalize": False})


def test_interpolated_positions_are_torch():
    learned = torch.randn((1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    for rows, columns in ((16, 16), (5, 40), (13, 19), (1, 7), (40, 6)):
        expected = torch.nn.functional.interpolate(
            learned, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True
        )
        given = interpolation_weights(16, rows, columns) @ learned[0].reshape(3, 256).T.numpy()
        np.testing.assert_allclose(given.T.reshape(3, rows, columns), expected[0], rtol=0, atol=1e-5)


def test_feeds_are_padded_in_parts():
    """Parts of a text and images are padded to 32 tokens each; without images the features are hidden."""
    feeds = OmniFeeds((4, 6, 6), 256.0, [ImageGrid(5, 7, 3, 4)], 2, 3)
    parts = [np.ones((3, 5), np.float32), np.ones((40, 5), np.float32), np.ones((1, 5), np.float32)]
    texts = feeds.text_feeds([parts, parts[:1] * 3])
    assert texts["encoder_hidden_states"].shape == (2, 128, 5)
    assert texts["encoder_attention_mask"].sum(axis=1).tolist() == [128, 96]
    assert texts["encoder_token_mask"].sum(axis=1).tolist() == [44, 9]
    assert texts["encoder_noise_mask"].sum(axis=1).tolist() == [96, 64]
    shapes = {name: texts[f"{name}_cos"].shape for name in ("text_rotary", "rotary", "reference", "feature")}
    assert shapes == {
        "text_rotary": (2, 128, 8), "rotary": (2, 2, 3, 8), "reference": (2, 64, 8), "feature": (2, 64, 8),
    }  # fmt: skip
    features = feature_feeds([np.ones((12, 6), np.float32)], 2, 6)
    assert [features[f"feature_{name}_mask"].sum() for name in ("token", "attention", "noise")] == [24, 128, 64]
    assert not feature_feeds([], 1, 6)["feature_attention_mask"].any()


CONFIGS = {
    "siglip_feat_dim": (None, "got null, expected 24, the hidden_size of the image encoder"),
    "in_channels": (16, "got 16, expected 4, the latent_channels of the VAE"),
}


@pytest.mark.slow
def test_configs_that_are_refused(folder):
    names = ("text_encoder", "transformer", "vae", "siglip")
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in names}
    describe = z_image_omni_transformer(512, encoder="siglip").describe
    usual = {"sequence": 512, "height": 256, "width": 256, "reference": 0, "features": 32}
    assert describe(configs).usual == usual
    for field, (value, words) in CONFIGS.items():
        with pytest.raises(ConfigError, match=f"transformer/config.json: field '{field}': {words}"):
            describe({**configs, "transformer": {**configs["transformer"], field: value}})

"""AutoencoderTiny in the place of AutoencoderKL against diffusers: every task, tiles, Stable Diffusion XL, errors."""

import json
import shutil
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from device_precisions import requires_precision
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.components.autoencoder_tiny import describe_tiny_encoder
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import CheckpointError, ConfigError, InputError
from diffoundry.runtime.models.autoencoder_tiny import TinyTiles

TINY = diffusers.AutoencoderTiny


@pytest.fixture(scope="module")
def folder(tiny_sd_checkpoint):
    return tiny_sd_checkpoint("sd1-tiny")


@pytest.fixture(scope="module")
def bundle(wide_bundle):
    return wide_bundle("sd1-tiny")


@pytest.fixture(scope="module")
def ours(bundle):
    return load(bundle)


def image(width=72, height=56, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height))


MASK = Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((32, 32))).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("StableDiffusionPipeline", {}),
        ("StableDiffusionPipeline", {"height": 72, "width": 40, "num_images_per_prompt": 2, "output_type": "pil"}),
        ("StableDiffusionImg2ImgPipeline", {"image": image(), "strength": 0.7}),
        ("StableDiffusionInpaintPipeline", {"image": image(64, 64), "mask_image": MASK, "strength": 0.9}),
        ("StableDiffusionInpaintPipeline", {"image": image(64, 64), "mask_image": MASK}),
    ],
)
def test_every_task_generates_as_diffusers_does(ours, folder, name, more):
    compare(ours, diffusers_pipeline(folder, name), "a cat", num_inference_steps=5, **more)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_both_halves_on_every_engine(bundle, folder, target, precision):
    """fp16 has 11 bits for numbers of a few units."""
    requires_precision(target, precision)
    pipe = load(bundle, target=target, precision=precision)
    theirs = TINY.from_pretrained(folder / "vae")
    pixels = np.random.default_rng(1).uniform(-1, 1, (2, 3, 72, 40)).astype(np.float32)
    latents = np.random.default_rng(2).standard_normal((2, 4, 9, 5)).astype(np.float32) * 3
    with torch.no_grad():
        encoded = theirs.encode(torch.from_numpy(pixels)).latents.numpy()
        decoded = theirs.decode(torch.from_numpy(latents)).sample.numpy()
    tolerance = {"fp32": 1e-5, "fp16": 5e-3}[precision]
    np.testing.assert_allclose(pipe.vae.mode(pixels), encoded, atol=tolerance * np.abs(encoded).max())
    given = pipe.session.run("vae_decoder", {"latent_sample": latents})["sample"]
    np.testing.assert_allclose(given, decoded, atol=tolerance * np.abs(decoded).max())


def test_no_random_numbers_are_drawn_for_its_latents(ours):
    assert ours.vae.sample(np.zeros((1, 3, 64, 64), np.float32), None).shape == (1, 4, 8, 8)
    ours.vae.draw(np.zeros((1, 3, 64, 64), np.float32), None)
    assert ours.vae.scaling_factor == 1.0


class Network:
    """Draws an answer of the right size for whatever it is given, and keeps what that was."""

    def __init__(self, scale, channels):
        self.scale, self.channels, self.seen, self.random = scale, channels, [], np.random.default_rng(0)

    def __call__(self, array):
        self.seen.append(np.array(array))
        height, width = (int(side * self.scale) for side in array.shape[2:])
        return self.random.standard_normal((len(array), self.channels, height, width), np.float32)


SIZES = [(64, 64), (57, 56), (130, 8), (64, 113), (20, 60), (120, 112)]


@pytest.mark.parametrize(
    ("size", "side", "overlap"), [*((size, 512, 0.125) for size in SIZES), ((20, 33), 128, 0.25), ((41, 20), 128, 0.5)]
)
@pytest.mark.parametrize("half", ["decode", "encode"])
def test_tiles_are_cut_and_blended_as_in_diffusers(half, size, side, overlap):
    """Equal to the last bit or two: sums and products are the same, in another order of rounding."""
    unit, channels, given = (1, 3, 4) if half == "decode" else (8, 4, 3)
    ours, theirs = (Network(8 if half == "decode" else 1 / 8, channels) for _ in range(2))
    array = np.random.default_rng(1).standard_normal((2, given, size[0] * unit, size[1] * unit), np.float32)
    vae = SimpleNamespace(
        spatial_scale_factor=8,
        tile_overlap_factor=overlap,
        tile_sample_min_size=side,
        tile_latent_min_size=side // 8,
        encoder=lambda tile: torch.from_numpy(theirs(tile.numpy())),
        decoder=lambda tile: torch.from_numpy(theirs(tile.numpy())),
    )
    expected = getattr(TINY, f"_tiled_{half}")(vae, torch.from_numpy(array)).numpy()
    given = getattr(TinyTiles.of({}, 8, side, overlap), half)(ours, array)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
    assert len(ours.seen) == len(theirs.seen)
    for mine, other in zip(ours.seen, theirs.seen, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_large_image_in_tiles_is_diffusers(ours, folder):
    theirs = TINY.from_pretrained(folder / "vae")
    theirs.enable_tiling()
    latents = np.random.default_rng(2).standard_normal((1, 4, 64, 70), np.float32)
    with torch.no_grad():
        expected = theirs.decode(torch.from_numpy(latents)).sample
    expected = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    ours.vae.enable_tiling()
    try:
        np.testing.assert_allclose(ours.decode(latents, "np"), expected, atol=2e-4)
    finally:
        ours.vae.disable_tiling()
    assert np.abs(ours.decode(latents, "np") - expected).max() > 1e-3


def test_sizes_of_tiles():
    tiles = TinyTiles.of({}, 8)
    assert tiles.sizes((64, 448)) == [(64, 448)]
    assert tiles.sizes((512, 512)) == [(512, 512), (512, 64), (64, 512), (64, 64)]
    assert tiles.sizes((520, 1000)) == [(512, 512), (512, 104), (72, 512), (72, 104)]
    with pytest.raises(InputError, match="got tiles of 64x512, 512x64, 64x64 for an image of 512x512, which this bun"):
        tiles.check((512, 512), {}, [(512, 512)])
    with pytest.raises(InputError, match="VAE tiling: got an AutoencoderTiny of 4 pixels to a latent, expected 8"):
        TinyTiles.of({}, 4)
    assert TinyTiles.of({}, 8, 128).sizes((128, 128)) == [(128, 128), (128, 16), (16, 128), (16, 16)]
    with pytest.raises(InputError, match="tile_sample_min_size: got 64, of which tiles share 1/8, expected tiles "):
        TinyTiles.of({}, 8, 64)


@pytest.fixture(scope="module")
def xl(exported, tiny_sd_checkpoint, folder):
    return exported(tiny_sd_checkpoint("xl"), vae=folder / "vae")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("StableDiffusionXLPipeline", {}),
        ("StableDiffusionXLImg2ImgPipeline", {"image": image(), "strength": 0.7}),
        ("StableDiffusionXLInpaintPipeline", {"image": image(64, 64), "mask_image": MASK, "strength": 0.9}),
    ],
)
def test_in_the_place_of_the_vae_of_stable_diffusion_xl(xl, tiny_sd_checkpoint, folder, name, more):
    theirs = diffusers_pipeline(tiny_sd_checkpoint("xl"), name, vae=TINY.from_pretrained(folder / "vae"))
    compare(load(xl), theirs, "a cat", num_inference_steps=4, **more)


def test_the_recipe_says_so(xl, folder, tiny_sd_checkpoint):
    opened = Bundle(xl)
    recipe = opened.manifest.recipe
    own = open_checkpoint(str(tiny_sd_checkpoint("xl"))).identity()
    other = open_checkpoint(str(folder)).identity()
    assert recipe.vae == str(folder / "vae")
    for file in ("vae/config.json", "vae/diffusion_pytorch_model.safetensors"):
        assert recipe.source[file] == other[file] != own[file]
    assert opened.model_index["vae"] == ["diffusers", "AutoencoderTiny"]


@pytest.mark.slow
def test_verify_compares_with_the_other_vae(xl):
    from diffoundry.exporter.verify import VerifyRequest, verify

    report = verify(xl, None, VerifyRequest(prompts=("red apple",), steps=2))
    assert [check for check in report.all_checks if not check.passed] == []
    outputs = {(result.component, result.output) for result in report.variants[0].outputs}
    assert {("vae_encoder", "latents"), ("vae_decoder", "sample")} <= outputs


def test_a_vae_that_does_not_fit(tiny_sd_checkpoint, folder, tmp_path):
    root = str(tiny_sd_checkpoint("sd1"))
    with pytest.raises(
        CheckpointError,
        match="--vae: got 'nowhere', expected a .safetensors file with a VAE, or a folder with config.json and diffusi",
    ):
        open_checkpoint(root, vae="nowhere")
    with pytest.raises(CheckpointError, match="got the class 'UNet2DConditionModel', expected AutoencoderKL or Autoen"):
        open_checkpoint(root, vae=f"{root}/unet")
    shutil.copytree(folder / "vae", tmp_path / "vae")
    config = tmp_path / "vae/config.json"
    whole = json.loads(config.read_text())
    config.write_text(json.dumps({**whole, "latent_channels": 16}))
    message = (
        "got latents of 16 channels, 8 pixels to a side, expected latents of 4 channels, 8 pixels to a side, as the"
    )
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(root, vae=str(tmp_path / "vae"))
    with pytest.raises(
        ConfigError, match=r"got 4 levels in the encoder, 3 in the decoder and an upsampling_scaling_fac"
    ):
        describe_tiny_encoder({"vae": {**whole, "decoder_block_out_channels": [16] * 3}})

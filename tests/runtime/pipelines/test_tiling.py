"""The VAE in tiles and slices against diffusers' own: what is put together, images, latents, and what is fed."""

import inspect
import re
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.autoencoder_dc import AutoencoderDC
from diffoundry.runtime.models.vae_tiling import Tiles
from diffoundry.runtime.random import TorchCpuGenerator

KL = diffusers.AutoencoderKL
DC = diffusers.AutoencoderDC


class Network:
    """Draws an answer of the right size for whatever it is given, and keeps what that was."""

    def __init__(self, scale):
        self.scale, self.seen, self.random = scale, [], np.random.default_rng(0)

    def __call__(self, array):
        self.seen.append(array.copy())
        height, width = (int(side * self.scale) for side in array.shape[2:])
        return self.random.standard_normal((len(array), 3, height, width), np.float32)


def networks_and_array(half, size):
    """Make a network for each side, and what both are fed in tiles, of a size in latents."""
    ours, theirs = (Network(8 if half == "decode" else 1 / 8) for _ in range(2))
    unit = 1 if half == "decode" else 8
    shape = (2, 4, size[0] * unit, size[1] * unit)
    return ours, theirs, np.random.default_rng(1).standard_normal(shape, np.float32)


SIZES = [(9, 8), (8, 9), (12, 14), (13, 20), (20, 13), (30, 3), (24, 25)]


@pytest.mark.parametrize(
    ("size", "side", "overlap"),
    [*((size, 64, 0.25) for size in SIZES), ((20, 13), 32, 0.25), ((13, 20), 64, 0.5), ((19, 9), 32, 0.75),
     ((17, 12), 64, 0.375), ((9, 13), 40, 0.2), ((13, 8), 32, 0), ((12, 14), 96, 1 / 3)],
)  # fmt: skip
@pytest.mark.parametrize("half", ["decode", "encode"])
def test_tiles_are_cut_and_blended_bit_for_bit_as_in_diffusers(half, size, side, overlap):
    ours, theirs, array = networks_and_array(half, size)
    vae = SimpleNamespace(
        tile_sample_min_size=side,
        tile_latent_min_size=side // 8,
        tile_overlap_factor=overlap,
        config=SimpleNamespace(use_quant_conv=False, use_post_quant_conv=False),
        decoder=lambda tile: torch.from_numpy(theirs(tile.numpy())),
        encoder=lambda tile: torch.from_numpy(theirs(tile.numpy())),
        blend_v=lambda *arguments: KL.blend_v(None, *arguments),
        blend_h=lambda *arguments: KL.blend_h(None, *arguments),
    )
    if half == "decode":
        expected = KL.tiled_decode(vae, torch.from_numpy(array)).sample.numpy()
    else:
        expected = KL._tiled_encode(vae, torch.from_numpy(array)).numpy()
    assert_same_tiles(Tiles.of({"sample_size": 512}, 8, side, overlap), half, ours, array, theirs, expected)


def assert_same_tiles(tiles, half, ours, array, theirs, expected):
    result = (tiles.decode if half == "decode" else tiles.encode)(ours, array)
    np.testing.assert_array_equal(result, expected)
    for mine, other in zip(ours.seen, theirs.seen, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(("size", "side", "overlap"), [((20, 13), 64, 0.125), ((13, 20), 32, 0.5)])
@pytest.mark.parametrize("half", ["decode", "encode"])
def test_tiles_of_the_deep_compression_autoencoder_are_those_of_diffusers(half, size, side, overlap):
    """They are described by strides there."""
    ours, theirs, array = networks_and_array(half, size)
    names = ("tile_sample_{}_height", "tile_sample_{}_width")
    vae = SimpleNamespace(
        spatial_compression_ratio=8,
        **{name.format(what): value for name in names
           for what, value in {"min": side, "stride": int(side * (1 - overlap))}.items()},
        decoder=lambda tile: torch.from_numpy(theirs(tile.numpy())),
        encoder=lambda tile: torch.from_numpy(theirs(tile.numpy())),
        blend_v=lambda *arguments: DC.blend_v(None, *arguments),
        blend_h=lambda *arguments: DC.blend_h(None, *arguments),
    )  # fmt: skip
    (expected,) = getattr(DC, f"tiled_{half}")(vae, torch.from_numpy(array), return_dict=False)
    assert_same_tiles(Tiles.of({}, 8, side, overlap), half, ours, array, theirs, expected.numpy())


def test_tiles_of_the_deep_compression_autoencoder_are_as_large_as_in_diffusers():
    tiles = AutoencoderDC.own_tiles(SimpleNamespace(scale_factor=32))
    theirs = inspect.getsource(DC.__init__)
    assert "self.tile_sample_min_height = 512\n" in theirs
    assert "self.tile_sample_stride_height = 448\n" in theirs
    assert (tiles.pixels, tiles.latents, int(tiles.pixels * (1 - tiles.overlap))) == (512, 16, 448)


@pytest.mark.parametrize(
    ("config", "factor", "tiles"),
    [({}, 8, (32, 4)), ({"sample_size": 512}, 8, (512, 64)), ({"sample_size": 64}, 4, (64, 16))],
)
def test_tiles_are_as_large_as_in_diffusers(config, factor, tiles):
    levels = factor.bit_length()
    theirs = KL(
        **config,
        block_out_channels=(8,) * levels,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    assert (theirs.tile_sample_min_size, theirs.tile_latent_min_size) == tiles
    ours = Tiles.of(config, factor)
    assert (ours.pixels, ours.latents) == tiles


@pytest.mark.parametrize("size", [[64, 64], 16, 40, 100])
def test_sizes_that_make_no_tiles_are_refused(size):
    message = r"VAE tiling: got sample_size .* in the VAE's config, expected a multiple of 32, so that tiles fit"
    with pytest.raises(InputError, match=message):
        Tiles.of({"sample_size": size}, 8)


MULTIPLE = "expected a multiple of {} of at most 65536, so that tiles that share {} of a side fit together"


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [
        (100, None, f"tile_sample_min_size: got 100, {MULTIPLE.format(32, '1/4')}"),
        (0, None, "tile_sample_min_size: got 0, expected a multiple of 32"),
        (-32, None, "tile_sample_min_size: got -32, expected a multiple of 32"),
        (64.0, None, "tile_sample_min_size: got 64.0, expected a multiple of 32"),
        (2**40, None, f"tile_sample_min_size: got {2**40}, expected a multiple of 32"),
        (96, 0.3, f"tile_sample_min_size: got 96, {MULTIPLE.format(80, '3/10')}"),
        (None, 1 / 3, "tile_sample_min_size: got 512, expected a multiple of 24"),
        (64, 1, "tile_overlap_factor: got 1, expected a number from 0 to less than 1, the part of a tile that the"),
        (64, -0.1, "tile_overlap_factor: got -0.1"),
        (64, float("nan"), "tile_overlap_factor: got nan"),
        (64, "0.5", "tile_overlap_factor: got '0.5'"),
    ],
)  # fmt: skip
def test_chosen_sizes_that_make_no_tiles_are_refused(size, overlap, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        Tiles.of({"sample_size": 512}, 8, size, overlap)


@pytest.fixture(scope="module", params=["emoji", "sd1", "emoji on openvino"])
def pair(request, exported, emoji_folder, tiny_sd_checkpoint):
    """A pipeline of ours and diffusers' VAE, both in tiles of 64 pixels."""
    folder = tiny_sd_checkpoint("sd1") if request.param == "sd1" else emoji_folder
    target = "openvino" if "openvino" in request.param else "onnxruntime"
    ours = load(exported("emoji" if folder == emoji_folder else folder, target=target))
    ours.vae.enable_tiling()
    theirs = KL.from_pretrained(folder / "vae")
    theirs.enable_tiling()
    return ours, theirs


@pytest.mark.slow_cases("sd1-*", "emoji on*", "emoji-size1", "emoji-size2")
@pytest.mark.parametrize("size", [(16, 16), (20, 13), (8, 19), (8, 8)])
def test_latents_become_the_image_of_diffusers(pair, size):
    ours, theirs = pair
    latents = np.random.default_rng(2).standard_normal((2, 4, *size), np.float32)
    with torch.no_grad():
        expected = theirs.decode(torch.from_numpy(latents / np.float32(theirs.config.scaling_factor))).sample
    expected = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    image = ours.decode(latents, "np")
    np.testing.assert_allclose(image, expected, atol=2e-4)
    ours.vae.disable_tiling()
    whole = ours.decode(latents, "np")
    ours.vae.enable_tiling()
    assert (np.abs(whole - image).max() > 1e-3) == (max(size) > 8)  # where there is one tile it is the whole


@pytest.mark.slow_cases("sd1-*", "emoji on*", "emoji-size2")
@pytest.mark.parametrize("size", [(128, 128), (160, 104), (64, 152)])
def test_a_image_becomes_the_latents_of_diffusers(pair, size):
    ours, theirs = pair
    pixels = np.random.default_rng(3).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    with torch.no_grad():
        distribution = theirs.encode(torch.from_numpy(pixels)).latent_dist
    scale = distribution.mode().abs().max().item()
    np.testing.assert_allclose(ours.vae.mode(pixels), distribution.mode(), atol=1e-4 * scale)
    drawn = distribution.sample(torch.Generator().manual_seed(4))
    np.testing.assert_allclose(ours.vae.sample(pixels, TorchCpuGenerator(4)), drawn, atol=1e-4 * scale)


@pytest.fixture
def frugal(emoji_bundle):
    """The embedded model with both on, and the shape of whatever its engines are fed, by component."""
    ours = load(emoji_bundle)
    ours.vae.enable_tiling()
    ours.vae.enable_slicing()
    fed = {"vae_encoder": [], "vae_decoder": [], "unet": [], "text_encoder": []}
    ours.session.on_call = lambda name, feeds, *_: fed[name].append(next(iter(feeds.values())).shape)
    return ours, fed


def frugal_diffusers(folder, name):
    pipe = diffusers_pipeline(folder, name)
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    return pipe


def test_tiles_of_a_chosen_size_are_those_of_diffusers(emoji_bundle, emoji_folder):
    ours, theirs = load(emoji_bundle), KL.from_pretrained(emoji_folder / "vae")
    ours.vae.enable_tiling(tile_sample_min_size=32, tile_overlap_factor=0.5)
    theirs.enable_tiling()
    theirs.tile_sample_min_size, theirs.tile_latent_min_size, theirs.tile_overlap_factor = 32, 4, 0.5
    pixels = np.random.default_rng(3).uniform(-1, 1, (1, 3, 72, 40)).astype(np.float32)
    with torch.no_grad():
        latents = theirs.encode(torch.from_numpy(pixels)).latent_dist.mode()
        images = theirs.decode(latents).sample
    np.testing.assert_allclose(ours.vae.mode(pixels), latents, atol=1e-4 * latents.abs().max().item())
    image = ours.vae.decode(latents.numpy())
    np.testing.assert_allclose(image, images, atol=4e-4)
    ours.vae.enable_tiling()
    assert np.abs(ours.vae.decode(latents.numpy()) - image).max() > 1e-3


@pytest.mark.slow
def test_every_task_generates_in_tiles_as_diffusers_does(frugal, emoji_folder):
    ours, fed = frugal
    settings = {"num_inference_steps": 3, "num_images_per_prompt": 2}
    image = Image.effect_noise((104, 160), 90).convert("RGB")
    theirs = frugal_diffusers(emoji_folder, "StableDiffusionPipeline")
    compare(ours, theirs, "a red apple", height=128, width=96, **settings)
    assert fed["vae_decoder"] == [(1, 4, height, width) for height in (8, 8, 4) for width in (8, 6)] * 2
    assert not fed["vae_encoder"]
    theirs = frugal_diffusers(emoji_folder, "StableDiffusionImg2ImgPipeline")
    compare(ours, theirs, "a red apple", image=image, **settings)
    assert fed["vae_encoder"] == [(1, 3, height, width) for height in (64, 64, 64, 16) for width in (64, 56, 8)]
    theirs = frugal_diffusers(emoji_folder, "StableDiffusionInpaintPipeline")
    mask = Image.linear_gradient("L").resize(image.size)
    compare(ours, theirs, "a cat", image=image, mask_image=mask, height=160, width=104, **settings)
    for shapes, side in ((fed["vae_decoder"], 8), (fed["vae_encoder"], 64)):
        assert max(max(shape[2:]) for shape in shapes) == side
        assert {shape[0] for shape in shapes} == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "name"),
    [("xl", "StableDiffusionXLImg2ImgPipeline"), ("instruct", "StableDiffusionInstructPix2PixPipeline")],
)
def test_other_families_and_tasks(exported, tiny_sd_checkpoint, variant, name):
    folder = tiny_sd_checkpoint(variant)
    ours = load(exported(folder))
    ours.vae.enable_tiling()
    image = Image.effect_noise((104, 80), 90).convert("RGB")
    compare(ours, frugal_diffusers(folder, name), "a cat", image=image, num_inference_steps=8)


def test_slices_are_the_same_images(frugal):
    ours, fed = frugal
    ours.vae.disable_tiling()
    latents = np.random.default_rng(5).standard_normal((3, 4, 8, 12), np.float32)
    sliced = ours.decode(latents, "np")
    assert fed["vae_decoder"] == [(1, 4, 8, 12)] * 3
    ours.vae.disable_slicing()
    np.testing.assert_allclose(ours.decode(latents, "np"), sliced, atol=1e-5)
    assert fed["vae_decoder"][3:] == [(3, 4, 8, 12)]


BUCKETS = ((112, 112), (64, 64), (16, 64), (64, 16), (16, 16))  # (height, width)


@pytest.fixture(scope="module")
def bucketed(exported):
    ours = load(exported("emoji", target="openvino", buckets=(*BUCKETS, (96, 96))))
    ours.vae.enable_tiling()
    return ours


@pytest.mark.slow
def test_buckets_of_every_tile_generate_as_diffusers_does(bucketed, emoji_folder):
    theirs = frugal_diffusers(emoji_folder, "StableDiffusionPipeline")
    compare(bucketed, theirs, "a red apple", height=112, width=112, num_inference_steps=2)


@pytest.mark.slow
def test_a_image_without_a_bucket_for_every_tile_is_refused_before_the_first_step(bucketed, monkeypatch):
    called = []
    monkeypatch.setattr(bucketed.session, "on_call", lambda name, *_: called.append(name))
    size = {"height": 96, "width": 96}
    with pytest.raises(InputError, match="VAE tiling: got tiles of 48x64, 64x48, 48x48 for an image of 96x96, which"):
        bucketed.start("a cat", **size)
    assert not called
    latents = bucketed("a cat", **size, num_inference_steps=1, output_type="latent").images  # needs no tile
    with pytest.raises(InputError, match="VAE tiling: got tiles of 48x64"):
        bucketed.decode(latents)


def test_what_is_refused_names_the_sizes_that_are_needed():
    tiles = Tiles.of({"sample_size": 64}, 8)
    tiles.check((112, 112), {}, BUCKETS)
    tiles.check((64, 64), {}, [(64, 64)])
    tiles.check((128, 200), {"height": DimSpec(min=8, multiple_of=8)}, [])
    with pytest.raises(InputError) as caught:
        tiles.check((112, 64), {}, [(112, 64), (64, 64)])
    assert str(caught.value) == (
        "VAE tiling: got tiles of 16x64, 64x16, 16x16 for an image of 64x112, which this bundle has no engines for; "
        "export with free sizes or with --buckets 64x112,64x64,16x64,64x16,16x16, or leave VAE tiling off"
    )
    with pytest.raises(InputError, match="got tiles of 64x32, 16x32 for an image of 64x128"):
        tiles.check((128, 64), {"height": DimSpec(min=64, max=128), "width": DimSpec(min=8)}, [])

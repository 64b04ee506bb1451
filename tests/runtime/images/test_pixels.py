"""Images into and out of the VAE, bit for bit against diffusers' `VaeImageProcessor`."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.images.pixels import describe_image_fault, preprocess, read_pixels, snap_size
from diffoundry.runtime.images.postprocess import postprocess

PROCESSOR = VaeImageProcessor(vae_scale_factor=8, do_convert_rgb=True)


def noise(seed, *shape):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def make_image(seed, width, height, mode="RGB"):
    """An image with smooth parts and hard edges, so that the filter of the resize shows."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (3 + k)) * np.cos(y / (5 + k + seed)) * 127 + 128 for k in range(3)], axis=-1)
    waves[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 128)
    image = Image.fromarray(waves.astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray((x * 255 // max(width - 1, 1)).astype(np.uint8)))
    return image.convert(mode)


def expected_pixels(sample, output_type="pil"):
    images = PROCESSOR.postprocess(torch.from_numpy(sample), output_type=output_type)
    return np.stack([np.asarray(image) for image in images])


# Samples whose 8-bit value lies at or beside a rounding boundary, the ends, and far outside.
def boundary_samples():
    halves = (np.arange(0, 512, dtype=np.float64) / 2 / 255).astype(np.float32) * 2 - 1
    beside = [halves, np.nextafter(halves, np.float32(-9)), np.nextafter(halves, np.float32(9))]
    far = [-np.inf, -1e30, -1.0001, -1, -0.0, 0, 1, 1.0001, 1e30, np.inf]
    ends = np.array([*far, *far, *[1e-45] * 28], dtype=np.float32)
    flat = np.concatenate([*beside, ends])
    return np.resize(flat, (1, 3, 24, 24))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_postprocess_equals_diffusers_on_random_samples(dtype, scale):
    sample = (np.random.default_rng(7).standard_normal((3, 3, 64, 48)) * scale).astype(dtype)

    for image, expected in zip(postprocess(sample), expected_pixels(sample), strict=True):
        np.testing.assert_array_equal(np.asarray(image), expected)
    np.testing.assert_array_equal(postprocess(sample, "np"), expected_pixels(sample, "np"))
    assert postprocess(sample, "np").dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_postprocess_equals_diffusers_at_rounding_boundaries(dtype):
    with np.errstate(over="ignore"):
        sample = boundary_samples().astype(dtype)

    (image,) = postprocess(sample)

    np.testing.assert_array_equal(np.asarray(image), expected_pixels(sample)[0])
    assert image.mode == "RGB"
    assert image.size == (24, 24)
    np.testing.assert_array_equal(postprocess(sample, "np"), expected_pixels(sample, "np"))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(hnp.arrays(np.float32, (1, 3, 8, 8), elements=st.floats(width=32, allow_nan=False)))
def test_postprocess_equals_diffusers_on_any_numbers(sample):
    np.testing.assert_array_equal(np.asarray(postprocess(sample)[0]), expected_pixels(sample)[0])


def test_postprocess_latent_gives_the_sample_itself():
    sample = noise(0, 1, 4, 8, 8)

    assert postprocess(sample, "latent") is sample


def test_postprocess_does_not_change_the_sample():
    sample = noise(0, 1, 3, 8, 8) * 3
    before = sample.copy()

    postprocess(sample)

    np.testing.assert_array_equal(sample, before)


@pytest.mark.filterwarnings("error")
def test_nan_is_an_error_as_a_pil_image_and_kept_in_an_array():
    sample = noise(0, 1, 3, 8, 8)
    sample[0, 1, 2, 3] = np.nan

    with pytest.raises(EngineError, match=r"decoded sample: 1 of 192 values are NaN, expected numbers; run the"):
        postprocess(sample)
    assert np.isnan(postprocess(sample, "np")).sum() == 1


@pytest.mark.parametrize(
    ("sample", "output_type", "message"),
    [
        (np.zeros((1, 3, 8, 8)), "pt", "output_type: got 'pt', expected one of pil, np, latent"),
        (np.zeros((3, 8, 8)), "pil", r"decoded sample: got float64 \(3, 8, 8\), expected floats \(batch, 3, height"),
        (np.zeros((1, 4, 8, 8)), "np", r"decoded sample: got float64 \(1, 4, 8, 8\), expected floats"),
        (np.zeros((1, 3, 8, 8), np.uint8), "pil", r"decoded sample: got uint8 \(1, 3, 8, 8\), expected floats"),
    ],
)
def test_postprocess_refuses(sample, output_type, message):
    with pytest.raises(InputError, match=message):
        postprocess(sample, output_type)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize(
    ("size", "height", "width"),
    [((64, 64), None, None), ((67, 45), None, None), ((31, 90), 48, 72), ((40, 40), 51, 100), ((200, 120), 24, None)],
)
def test_preprocess_pil_equals_diffusers(mode, size, height, width):
    image = make_image(1, *size, mode)

    ours = preprocess(image, height, width)

    np.testing.assert_array_equal(ours, PROCESSOR.preprocess(image, height, width).numpy())
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous


def test_preprocess_list_of_pil_takes_the_size_of_the_first():
    images = [make_image(1, 50, 34), make_image(2, 90, 20, "L"), make_image(3, 8, 8)]

    np.testing.assert_array_equal(preprocess(images), PROCESSOR.preprocess(images).numpy())
    assert preprocess(images).shape == (3, 3, 32, 48)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("shape", "height", "width"),
    [
        ((16, 24, 3), None, None),
        ((2, 19, 37, 3), None, None),
        ((1, 16, 16, 3), 32, 64),
        ((3, 23, 61, 3), 40, 56),
        ((33, 57, 3), 512, 264),
        ((130, 77, 3), 8, 16),
    ],
)
def test_preprocess_array_equals_diffusers(dtype, shape, height, width):
    image = noise(3, *shape).astype(dtype)

    ours = preprocess(image, height, width)

    np.testing.assert_array_equal(ours, PROCESSOR.preprocess(image, height, width).float().numpy())
    assert ours.dtype == np.float32


def test_preprocess_list_of_arrays_equals_diffusers():
    images = [noise(seed, 20, 28, 3) for seed in range(3)]

    np.testing.assert_array_equal(preprocess(images), PROCESSOR.preprocess(images).numpy())


def test_tensors_equal_diffusers():
    """In torch's layout, as diffusers takes them; of any float type."""
    planes = [torch.from_numpy(noise(seed, 3, 20, 28)) for seed in range(2)]
    for image in (planes[0], planes[0][None], torch.stack(planes), planes, planes[0].to(torch.bfloat16)):
        expected = PROCESSOR.preprocess(image).float().numpy()
        rounded = torch.is_tensor(image) and image.dtype == torch.bfloat16  # diffusers computes 2 x - 1 in bfloat16
        np.testing.assert_allclose(preprocess(image), expected, atol=8e-3 if rounded else 0)


def test_control_images_are_any_floats_as_in_diffusers():
    processor = VaeImageProcessor(vae_scale_factor=8, do_convert_rgb=True, do_normalize=False)
    numbers = np.random.default_rng(0).standard_normal((2, 16, 24, 3)) * 5
    numbers[:, :4] = -1
    tensor = torch.from_numpy(numbers.transpose(0, 3, 1, 2).copy())
    arrays = [numbers, numbers[0], list(numbers), numbers.astype(np.float32), numbers.astype(np.float16)]
    for image in (*arrays, tensor, tensor[0], list(tensor), tensor.to(torch.bfloat16), tensor.requires_grad_()):
        expected = processor.preprocess(image).to(torch.float32).detach().numpy()
        np.testing.assert_array_equal(read_pixels(image, "control_image"), expected)
    for image in (make_image(1, 24, 16), make_image(1, 24, 16, "L"), [make_image(1, 24, 16), make_image(2, 24, 16)]):
        np.testing.assert_array_equal(read_pixels(image), processor.preprocess(image).numpy())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("I;16", (8, 8)), "control_image: got the PIL mode 'I;16', expected 8 bits a channel such as 'RGB'"),
        (np.zeros((8, 8, 3), np.uint8), "control_image: got an array of uint8, expected floats"),
        (
            np.zeros((8, 8)),
            r"control_image: got an array of shape \(8, 8\), expected \(height, width, 3\), or a tensor",
        ),
        (torch.zeros(4, 8, 8), r"control_image: got an array of shape \(8, 8, 4\), expected"),
        (np.full((8, 8, 3), np.inf), "control_image: got NaN or infinity, expected finite numbers"),
        ([], "control_image: got an empty list"),
        ([np.zeros((8, 8, 3)), Image.new("RGB", (8, 8))], "control_image: got ndarray, expected PIL images"),
    ],
)
def test_control_images_are_refused_by_their_name(image, message):
    with pytest.raises(InputError, match=message):
        read_pixels(image, "control_image")


def test_nearest_index_equals_torch_for_every_pair_of_sizes():
    """The index is computed in float32: for some pairs of sizes it differs by a pixel in float64."""
    for source in range(8, 140):
        ramp = np.broadcast_to((np.arange(source, dtype=np.float32) / 200)[None, :, None], (8, source, 3))
        planes = torch.from_numpy(ramp.transpose(2, 0, 1).copy())[None]
        for width in range(8, 260, 8):
            theirs = torch.nn.functional.interpolate(planes, size=(8, width)) * 2 - 1
            np.testing.assert_array_equal(preprocess(ramp, 8, width), theirs.numpy(), err_msg=f"{source} to {width}")


def test_float64_array_is_rounded_to_float32():
    image = np.random.default_rng(0).random((19, 37, 3))

    np.testing.assert_array_equal(preprocess(image), preprocess(image.astype(np.float32)))
    np.testing.assert_allclose(preprocess(image), PROCESSOR.preprocess(image).float().numpy(), atol=2**-23, rtol=0)


def test_factor_of_four_equals_diffusers():
    image = make_image(1, 31, 45)

    expected = VaeImageProcessor(vae_scale_factor=4, do_convert_rgb=True).preprocess(image).numpy()

    np.testing.assert_array_equal(preprocess(image, factor=4), expected)


def test_preprocess_then_postprocess_gives_the_image_back():
    image = make_image(1, 64, 48)

    (back,) = postprocess(preprocess(image))

    np.testing.assert_array_equal(np.asarray(back), np.asarray(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([], "image: got an empty list, expected at least one image"),
        ("cat.png", "image: got str, expected PIL images, or only arrays"),
        ([3], "image: got int, expected PIL images"),
        ([np.zeros((8, 8, 3)), Image.new("RGB", (8, 8))], "image: got ndarray, expected PIL images, or only arrays"),
        (Image.new("I;16", (8, 8)), "image: got the PIL mode 'I;16', expected 8 bits a channel such as 'RGB'"),
        (Image.new("F", (8, 8)), "image: got the PIL mode 'F', expected 8 bits"),
        (np.zeros((8, 8)), r"image: got an array of shape \(8, 8\), expected \(height, width, 3\)"),
        (np.zeros((8, 8, 4)), r"image: got an array of shape \(8, 8, 4\), expected \(height, width, 3\)"),
        (np.zeros((0, 8, 8, 3)), r"image: got an array of shape \(0, 8, 8, 3\), expected"),
        ([np.zeros((1, 8, 8, 3))] * 2, r"image: got an array of shape \(1, 8, 8, 3\), expected"),
        ([np.zeros((8, 8, 3)), np.zeros((8, 16, 3))], r"image: got arrays of shapes \[\(8, 8, 3\), \(8, 16, 3\)\]"),
        (np.zeros((8, 8, 3), np.uint8), "image: got an array of uint8, expected floats in 0..1; pass a PIL image or"),
        (np.full((8, 8, 3), -0.5), "image: got an array with values from -0.5 to -0.5, expected 0 to 1; scale it"),
        (np.full((8, 8, 3), 255.0), "image: got an array with values from 255 to 255, expected 0 to 1"),
        (np.full((8, 8, 3), np.nan), "image: got an array with values from nan to nan, expected 0 to 1"),
        (Image.new("RGB", (7, 20)), "image: got 7 x 20 pixels, expected at least 8 x 8; enlarge it"),
    ],
)
def test_preprocess_refuses(image, message):
    with pytest.raises(InputError, match=message):
        preprocess(image)


@pytest.mark.parametrize(
    ("size", "factor", "snapped"),
    [
        ((8, 8), 8, (8, 8)),
        ((15, 17), 8, (8, 16)),
        ((513, 767), 8, (512, 760)),
        ((63, 65), 64, None),
        ((30, 9), 4, (28, 8)),
    ],
)
def test_snap_size(size, factor, snapped):
    if snapped is None:
        with pytest.raises(InputError, match=r"image: got 65 x 63 pixels, expected at least 64 x 64"):
            snap_size(*size, factor)
    else:
        assert snap_size(*size, factor) == snapped


@pytest.mark.parametrize("layout", ["channels last", "channels first"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fault_of_values_that_are_no_numbers(value, layout):
    image = noise(0, 16, 24, 3)
    image[3, 4, :2] = value

    fault = describe_image_fault(image if layout == "channels last" else image.transpose(2, 0, 1))

    assert fault == "2 of 1152 values are NaN or infinite; use a higher precision"


FLAT = {
    "black": Image.new("RGB", (16, 24)),
    "white, gray": Image.new("L", (16, 24), 255),
    "red": Image.new("RGB", (16, 24), (200, 3, 40)),
    "array": np.full((16, 24, 3), 0.25, np.float32),
    "sample": np.full((3, 16, 24), -1.0, np.float32),
    "8-bit array": np.full((16, 24, 3), 9, np.uint8),
    "8-bit gray array": np.full((16, 24), 9, np.uint8),
    "two levels side by side": np.repeat(100 + np.arange(16 * 24) % 2, 3).reshape(16, 24, 3).astype(np.uint8),
    "beyond white": np.random.default_rng(0).uniform(2, 30, (3, 16, 24)),
}


@pytest.mark.parametrize("name", FLAT)
def test_fault_of_one_colour(name):
    assert describe_image_fault(FLAT[name]).startswith("the image is one colour (")


def test_fault_names_the_colour():
    assert describe_image_fault(FLAT["red"]) == (
        "the image is one colour (200, 3, 40); verify the bundle, or use a higher precision"
    )


@pytest.mark.parametrize(
    "image",
    [
        make_image(1, 16, 24),
        make_image(1, 16, 24, "L"),
        noise(0, 3, 16, 24) * 2 - 1,
        noise(0, 16, 24, 3),
        np.repeat(np.arange(16 * 24) % 3, 3).reshape(16, 24, 3).astype(np.uint8),
        np.pad(np.ones((1, 1, 3), np.float32), ((7, 8), (9, 6), (0, 0))),
    ],
    ids=["rgb", "gray", "sample", "array", "three levels", "one white pixel"],
)
def test_no_fault(image):
    assert describe_image_fault(image) is None


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (8, 8, 8), (0, 8, 3), (8,)])
def test_fault_refuses_other_shapes(shape):
    with pytest.raises(InputError, match=r"image: got shape .*, expected \(3, height, width\) or \(height, width, 3\)"):
        describe_image_fault(np.zeros(shape))

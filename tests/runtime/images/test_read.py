"""Image files of users: the pixels that diffusers' `load_image` reads, and a sentence for every other file."""

import io
import os
import stat
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.read import drop_opaque_alpha, read_array_file, read_image, read_image_file

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)


def with_orientation(path, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif, **options)
    return path


def reads_as_diffusers(path):
    from diffusers.utils import load_image

    ours, theirs = read_image_file(path, "--image"), load_image(str(path))
    assert ours.size == theirs.size, path
    np.testing.assert_array_equal(np.asarray(ours.convert("RGB")), np.asarray(theirs), err_msg=str(path))
    return ours


def test_photographs_are_upright(tmp_path):
    for suffix in ("jpg", "png", "webp", "tiff"):
        for orientation in range(1, 9):
            image = reads_as_diffusers(with_orientation(tmp_path / f"{orientation}.{suffix}", orientation))
            assert image.size == ((12, 8) if orientation > 4 else (8, 12)), (suffix, orientation)
    more = {"save_all": True, "append_images": [Image.fromarray(PIXELS)]}
    reads_as_diffusers(with_orientation(tmp_path / "two.mpo", 6, format="MPO", **more)).verify()


def test_modes_and_alpha_as_diffusers(tmp_path):
    image = Image.fromarray(PIXELS)
    opaque = image.convert("RGBA")
    files = {
        "opaque.png": (opaque, "RGB"),
        "opaque.webp": (opaque, "RGB"),
        "grey-alpha.png": (image.convert("LA"), "L"),
        "palette.gif": (image.convert("P"), None),
        "cmyk.jpg": (image.convert("CMYK"), "CMYK"),
        "one.bmp": (image.convert("1"), "1"),
    }
    for name, (content, mode) in files.items():
        content.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        assert mode in (None, reads_as_diffusers(tmp_path / name).mode), name
    image.save(tmp_path / "key.png", transparency=(1, 2, 3))  # a colour key that no pixel has
    assert "transparency" not in reads_as_diffusers(tmp_path / "key.png").info
    image.convert("P").save(tmp_path / "palette.png", transparency=bytes([255] * 256))
    assert reads_as_diffusers(tmp_path / "palette.png").mode == "RGB"
    for mode in ("RGBA", "LA"):
        clear = image.convert(mode)
        clear.putpixel((0, 0), (9,) * (len(mode) - 1) + (254,))
        assert drop_opaque_alpha(clear) is clear


def png(*chunks):
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


HEAD = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
DATA = (b"IDAT", zlib.compress(b"\0\0"))
END = (b"IEND", b"")


def jpeg(**options):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, format="JPEG", **options)
    return stream.getvalue()


@pytest.mark.filterwarnings("error")
def test_other_files_are_refused_in_a_sentence(tmp_path, monkeypatch):
    """PostScript would start ghostscript: a fake one leaves a mark if it is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, format="ICO", sizes=[(8, 8)])
    side = 13378  # squared, one row more than Pillow takes
    files = {
        "postscript.png": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
            "cannot be read as an image, expected a file in PNG, JPEG, WebP, GIF, BMP or TIFF",
        ),
        "icon.png": (stream.getvalue(), "cannot be read as an image"),
        "text.png": (b"no image", "cannot be read as an image"),
        "empty.png": (b"", "cannot be read as an image"),
        "cut.jpg": (jpeg()[:-200], "cannot be read ("),
        "zipped.png": (
            png(HEAD, (b"zTXt", b"a\0\0" + zlib.compress(b"a" * 2**21)), DATA, END),
            "cannot be read (ValueError: Decompressed data too large",
        ),
        "bomb.png": (
            png((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), DATA, END),
            "got too many pixels, expected at most 178,956,970; scale it down",
        ),
        "greater.png": (
            png((b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)), DATA, END),
            "scale it down",
        ),
    }
    for name, (data, message) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as refused:
            read_image_file(tmp_path / name, "--mask")
        assert str(refused.value).startswith(f"--mask {tmp_path / name}: ")
        assert message in str(refused.value)
    assert not (tmp_path / "called").exists()
    for missing, reason in ((tmp_path / "none.png", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=rf"--image .*: cannot be read \({reason}.*\); expected an image such as"):
            read_image_file(missing, "--image")


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(form):
    stream, frames = io.BytesIO(), [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(stream, format=form, save_all=True, append_images=frames[1:])
    stream.seek(0)
    words = "--image a: got 2 frames, expected an image of one; save the one that you mean alone"
    with pytest.raises(InputError, match=words):
        read_image(stream, "--image a")


def test_the_previews_of_a_photograph_are_no_frames():
    """Phones write JPEG files with a depth map, or a second view, behind the image."""
    stream, frames = io.BytesIO(), [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(stream, format="MPO", save_all=True, append_images=frames[1:])
    stream.seek(0)
    red, _, blue = np.asarray(read_image(stream, "--image")).mean((0, 1))
    assert red > 200
    assert blue < 50


def test_arrays_of_floats(tmp_path):
    path = tmp_path / "x.npy"
    values = np.random.default_rng(0).standard_normal((4, 6, 3))
    np.save(path, values)
    np.testing.assert_array_equal(read_array_file(path, "--control-image"), values.astype(np.float32))
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"--control-image .*x.npy: cannot be read .*; expected an array of floats"):
        read_array_file(path, "--control-image")
    np.save(path, np.full((4, 6, 3), np.nan))
    with pytest.raises(InputError, match="got NaN or infinity, expected finite numbers"):
        read_array_file(path, "--control-image")
    np.save(path, np.zeros((3, 4, 6), np.uint8))
    with pytest.raises(InputError, match=r"got uint8 of shape \(3, 4, 6\), expected floats of shape \(height, width"):
        read_array_file(path, "--control-image")
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6, 3)})
    path.write_bytes(huge.getvalue())
    with pytest.raises(InputError, match="cannot be read"):
        read_array_file(path, "--control-image")

"""Decodes the images of a request: uploads and data URLs, of few formats, with bounds on their pixels."""

import base64
import binascii
import re
from io import BytesIO
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.images.read import read_image
from diffoundry.serving.server.errors import bad_parameter
from diffoundry.serving.server.read_request import Upload

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageReader", "open_mask"]

_FORMATS = ("PNG", "JPEG", "WEBP")
"""Those of OpenAI's API."""

_DATA_URL = re.compile(r"data:image/[a-z+.-]{1,20};base64,")


class ImageReader:
    """Decodes the images of one request, which share one limit of pixels.

    Attributes:
        names: Parameter to the names of its files, as the settings of the result keep them.
    """

    def __init__(self, most_pixels: int) -> None:
        self._left = self._most = most_pixels
        self.names: dict[str, Any] = {}

    def read(self, param: str, value: Any) -> Any:
        """Decode a value: a PIL image, or a list of them.

        Raises:
            ApiError: It is no image, an address that would have to be opened, or has too many pixels.
        """
        if isinstance(value, list):
            pairs = [self._read(param, one) for one in value]
            self.names[param] = [name for name, _ in pairs]
            return [image for _, image in pairs]
        self.names[param], image = self._read(param, value)
        return image

    def _read(self, param: str, value: Any) -> "tuple[str, Image]":
        upload = value if isinstance(value, Upload) else _from_text(param, value)
        try:
            image = read_image(BytesIO(upload.data), param, formats=_FORMATS, most_pixels=self._left)
        except InputError as error:
            raise bad_parameter(param, str(error).removeprefix(f"{param}: ")) from error
        self._left -= image.width * image.height
        return upload.name, image


def _from_text(param: str, value: Any) -> Upload:
    """Return the bytes of a data URL, or of base64 alone.

    Raises:
        ApiError: Anything else.
    """
    if isinstance(value, dict) and set(value) == {"image_url"}:
        value = value["image_url"]
    if not isinstance(value, str):
        raise bad_parameter(
            param, f"got {shorten(value)}, expected an upload, or a text such as data:image/png;base64,..."
        )
    head = _DATA_URL.match(value)
    if head is None and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value):
        raise bad_parameter(
            param,
            f"got the address {shorten(value)}, which this server does not open; upload the image, or send it as "
            f"data:image/png;base64,...",
        )
    try:
        data = base64.b64decode(value[head.end() if head else 0 :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_parameter(
            param, f"got {shorten(value)}, which is no base64 ({error}); send data:image/png;base64,..."
        ) from error
    return Upload("inline", data)


def open_mask(mask: "Image", size: tuple[int, int]) -> "Image":
    """Return OpenAI's mask, transparent where the image is generated again, as one of diffusers: white there.

    Args:
        mask: As `mask` of a request.
        size: Width and height of the image in pixels.

    Raises:
        ApiError: It has no transparent pixel, or another size.
    """
    from PIL.Image import Image as PilImage

    if mask.size != size:
        got, expected = (f"{one[0]} x {one[1]}" for one in (mask.size, size))
        raise bad_parameter("mask", f"got {got} pixels, expected {expected}, the size of image")
    alpha = mask.convert("RGBA").getchannel("A")
    if alpha.getextrema()[0] != 0:
        raise bad_parameter(
            "mask",
            "got an image without a fully transparent pixel, expected transparency where image is generated again; "
            "pass a mask in black and white as mask_image",
        )
    white: PilImage = alpha.point(lambda value: 255 if value == 0 else 0)
    return white

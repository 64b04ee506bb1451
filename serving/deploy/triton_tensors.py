"""Inputs and outputs of a pipeline as tensors of Triton Inference Server."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.serving.place_images import one_or_list
from diffoundry.serving.taken_arguments import taken_arguments

__all__ = ["INPUTS", "LORAS", "OUTPUTS", "TritonInput", "select_inputs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TritonInput:
    """One argument of a pipeline.

    Attributes:
        name: Of the tensor, and of the argument in diffusers.
        kind: Triton's element type in config.pbtxt.
        dims: Shape; -1 is any size.
        read: Turns the tensor into the argument.
    """

    name: str
    kind: str
    dims: tuple[int, ...]
    read: Callable[[str, NDArray[Any]], Any]


def _text(name: str, tensor: NDArray[Any]) -> str:
    """Return the text of a tensor of one.

    Raises:
        InputError: It is no UTF-8.
    """
    value = _one(name, tensor)
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: got bytes that are no UTF-8, expected a text in UTF-8") from error


def _one(name: str, tensor: NDArray[Any]) -> Any:
    """Return the value of a tensor of one.

    Raises:
        InputError: It has more, or none.
    """
    if tensor.size != 1:
        raise InputError(f"{name}: got {tensor.size} values, expected one")
    return tensor.reshape(-1)[0]


def _whole(name: str, tensor: NDArray[Any]) -> int:
    return int(_one(name, tensor))


def _decimal(name: str, tensor: NDArray[Any]) -> float:
    """Return the shortest decimal number of an fp32 value, as 7.1 rather than 7.099999904632568."""
    return float(str(np.float32(_one(name, tensor))))


def _image(name: str, tensor: NDArray[Any]) -> Image.Image:
    """Return an image of (height, width, 3) in uint8.

    Raises:
        InputError: It has another shape.
    """
    if tensor.ndim != 3 or tensor.shape[2] != 3 or 0 in tensor.shape:
        raise InputError(f"{name}: got the shape {tensor.shape}, expected (height, width, 3)")
    return Image.fromarray(np.ascontiguousarray(tensor, np.uint8))


def _images(name: str, tensor: NDArray[Any]) -> list[Image.Image]:
    """Return the images of (count, height, width, 3) in uint8.

    Raises:
        InputError: It has another shape.
    """
    if tensor.ndim != 4 or tensor.shape[3] != 3 or 0 in tensor.shape:
        raise InputError(f"{name}: got the shape {tensor.shape}, expected (count, height, width, 3)")
    return [_image(name, one) for one in tensor]


def _for_each_network(name: str, tensor: NDArray[Any]) -> Any:
    """Return an image, or a list of one for each network; see `_images`."""
    return one_or_list(_images(name, tensor))


def _decimals(name: str, tensor: NDArray[Any]) -> Any:
    """Return a number, or a list of one for each network.

    Raises:
        InputError: There is none.
    """
    if tensor.ndim != 1 or not tensor.size:
        raise InputError(f"{name}: got the shape {tensor.shape}, expected (count)")
    return one_or_list([_decimal(name, one) for one in tensor])


def _texts(name: str, tensor: NDArray[Any]) -> list[str]:
    return [_text(name, one) for one in tensor.reshape(-1, 1)]


def _truth(name: str, tensor: NDArray[Any]) -> bool:
    return bool(_one(name, tensor))


def _mask(name: str, tensor: NDArray[Any]) -> Image.Image:
    """Return a mask of (height, width) in uint8, white where the image is generated again.

    Raises:
        InputError: It has another shape.
    """
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise InputError(f"{name}: got the shape {tensor.shape}, expected (height, width)")
    return Image.fromarray(np.ascontiguousarray(tensor, np.uint8))


LORAS = "loras"
"""Names of LoRAs, which are no argument of a pipeline."""

INPUTS = (
    TritonInput(name="prompt", kind="TYPE_STRING", dims=(1,), read=_text),
    TritonInput(name="negative_prompt", kind="TYPE_STRING", dims=(1,), read=_text),
    TritonInput(name="image", kind="TYPE_UINT8", dims=(-1, -1, 3), read=_image),
    TritonInput(name="mask_image", kind="TYPE_UINT8", dims=(-1, -1), read=_mask),
    TritonInput(name="strength", kind="TYPE_FP32", dims=(1,), read=_decimal),
    TritonInput(name="seed", kind="TYPE_INT64", dims=(1,), read=_whole),
    TritonInput(name="num_inference_steps", kind="TYPE_INT32", dims=(1,), read=_whole),
    TritonInput(name="guidance_scale", kind="TYPE_FP32", dims=(1,), read=_decimal),
    TritonInput(name="scheduler", kind="TYPE_STRING", dims=(1,), read=_text),
    TritonInput(name="height", kind="TYPE_INT32", dims=(1,), read=_whole),
    TritonInput(name="width", kind="TYPE_INT32", dims=(1,), read=_whole),
    TritonInput(name="num_images_per_prompt", kind="TYPE_INT32", dims=(1,), read=_whole),
    TritonInput(name="control_image", kind="TYPE_UINT8", dims=(-1, -1, -1, 3), read=_for_each_network),
    TritonInput(name="controlnet_conditioning_scale", kind="TYPE_FP32", dims=(-1,), read=_decimals),
    TritonInput(name="control_guidance_start", kind="TYPE_FP32", dims=(-1,), read=_decimals),
    TritonInput(name="control_guidance_end", kind="TYPE_FP32", dims=(-1,), read=_decimals),
    TritonInput(name="guess_mode", kind="TYPE_BOOL", dims=(1,), read=_truth),
    TritonInput(name="adapter_image", kind="TYPE_UINT8", dims=(-1, -1, -1, 3), read=_for_each_network),
    TritonInput(name="adapter_conditioning_scale", kind="TYPE_FP32", dims=(-1,), read=_decimals),
    TritonInput(name="ip_adapter_image", kind="TYPE_UINT8", dims=(-1, -1, -1, 3), read=_images),
    TritonInput(name="ip_adapter_scale", kind="TYPE_FP32", dims=(-1,), read=_decimals),
    TritonInput(name=LORAS, kind="TYPE_STRING", dims=(-1,), read=_texts),
)
"""Arguments that Triton's clients may send, in the order of config.pbtxt."""

OUTPUTS = (("images", "TYPE_UINT8", (-1, -1, -1, 3)), ("seed", "TYPE_INT64", (1,)))
"""Name, type and shape: images of (count, height, width, 3), and the seed that made them."""


def select_inputs(pipeline: PipelineBase) -> tuple[TritonInput, ...]:
    """Return the inputs that a pipeline takes."""
    taken = taken_arguments(pipeline) | ({"prompt"} if pipeline.needs_prompt else set())
    taken |= {LORAS} if hasattr(pipeline, "loras") else set()
    return tuple(one for one in INPUTS if one.name in taken)

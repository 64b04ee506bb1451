"""IP-Adapters of FLUX.1: image prompts for the blocks of a transformer.

diffusers: `FluxIPAdapterMixin`, and `prepare_ip_adapter_image_embeds` of `FluxPipeline`.
"""

import math
from typing import Any

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.ip_adapter import ImagePrompts
from diffoundry.runtime.pipelines.ip_adapter_inputs import ImagePromptInputs, to_number

__all__ = ["BlockImagePrompts", "open_image_prompts"]

_BLOCK = "transformer_blocks."
"""Beginning of the names of the layers that take image prompts."""


def open_image_prompts(session: EngineSession, denoiser: str) -> ImagePrompts:
    """Return the IP-Adapters of a bundle, of the kind of its denoiser; arguments as `ImagePrompts`."""
    found = ImagePrompts(session, denoiser)
    layers = [layer for model in found.models for layer in model.layers]
    blocks = bool(layers) and all(layer.startswith(_BLOCK) for layer in layers)
    return BlockImagePrompts(session, denoiser) if blocks else found


class BlockImagePrompts(ImagePrompts):
    """IP-Adapters of FLUX.1. They have no masks, and an image for the negative prompt, by default a black one."""

    negative = True

    def check(self, inputs: ImagePromptInputs) -> None:
        """See `ImagePrompts`."""
        if inputs.ip_adapter_masks is not None:
            raise InputError(
                "ip_adapter_masks: got some, expected none: image prompts of FLUX.1 have no masks; leave them out"
            )
        for prefix in ("", "negative_"):
            image, embeds = (getattr(inputs, f"{prefix}ip_adapter_image{end}") for end in ("", "_embeds"))
            if image is not None and embeds is not None:
                raise InputError(
                    f"{prefix}ip_adapter_image and {prefix}ip_adapter_image_embeds: got both, expected one of them"
                )
            if image is not None:
                inputs.images(len(self.names), prefix)
        super().check(inputs)
        self.scales(inputs)

    def scales(self, inputs: ImagePromptInputs) -> list[Any]:
        """See `ImagePrompts`: a number for each IP-Adapter, or a list with one for each block.

        diffusers: `FluxIPAdapterMixin.set_ip_adapter_scale`.
        """
        given: Any = inputs.ip_adapter_scale
        count = len(self.names)
        if given is None or not isinstance(given, list | tuple):
            return [1.0 if given is None else to_number(given)] * count
        several = count == 1 and not any(isinstance(one, list | tuple) for one in given)
        entries = [given] if several and len(given) != 1 else list(given)
        if len(entries) != count:
            raise InputError(
                f"ip_adapter_scale: got {len(entries)} for {count} IP-Adapters of this bundle, expected one for each"
            )
        return [self._block_scales(one) for one in entries]

    def _block_scales(self, scale: Any) -> Any:
        blocks = len(self.models[0].layers)
        if not isinstance(scale, list | tuple):
            return to_number(scale)
        if len(scale) != blocks:
            raise InputError(
                f"ip_adapter_scale: got a list of {len(scale)}, expected a number, or {blocks}: one for each double "
                f"block of the transformer"
            )
        return np.asarray([to_number(one) for one in scale], np.float32)[:, None]

    def _tokens(self, inputs: ImagePromptInputs, *, guided: bool) -> list[tuple[FloatArray, FloatArray]]:
        """See `ImagePrompts`: of the images, and of those of the negative prompt. One that is missing is black."""
        halves = [self._encoded(inputs, prefix) for prefix in ("", "negative_")]
        found = []
        for index, model in enumerate(self.models):
            pair = [half[index] for half in halves]
            for embeds in pair:
                if embeds.ndim != 2 or embeds.shape[1] != model.width:
                    raise InputError(
                        f"ip_adapter_image_embeds: got {(1, *embeds.shape)}, expected (1, images, {model.width}) for "
                        f"{model.component}"
                    )
            tokens, negative = (model(embeds) for embeds in pair)
            count = math.lcm(len(tokens), len(negative)) if guided else len(tokens)
            found.append((_repeated(tokens, count), _repeated(negative, count)))
        return found

    def _encoded(self, inputs: ImagePromptInputs, prefix: str) -> list[FloatArray]:
        """Return encoded images (images, E) of each IP-Adapter."""
        embeds: Any = getattr(inputs, f"{prefix}ip_adapter_image_embeds")
        if embeds is not None:
            return _read_embeds(embeds, len(self.names), f"{prefix}ip_adapter_image_embeds")
        assert self.encoder is not None, "there are IP-Adapters"
        if getattr(inputs, f"{prefix}ip_adapter_image") is None:
            from PIL.Image import new

            black = self.encoder([new("RGB", (64, 64))], pooled=True)[0]
            return [black] * len(self.names)
        images = inputs.images(len(self.names), prefix)
        return [self.encoder(some, pooled=True)[0] for some in images]


def _read_embeds(given: Any, count: int, name: str) -> list[FloatArray]:
    """Return encoded images (images, E) of each IP-Adapter from arrays (1, images, E).

    Raises:
        InputError: They are something else.
    """
    entries = list(given) if isinstance(given, list | tuple) else [given]
    if len(entries) != count:
        raise InputError(f"{name}: got {len(entries)} for {count} IP-Adapters of this bundle, expected one for each")
    arrays: list[Any] = [to_array(one) if is_tensor(one) else one for one in entries]
    for array in arrays:
        fits = isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim == 3 and len(array) == 1
        if not fits or not array.size:
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"{name}: got {got}, expected a list of floats (1, images, width)")
    return [array[0].astype(np.float32) for array in arrays]


def _repeated(tokens: FloatArray, count: int) -> FloatArray:
    """Return tokens (n, T, D) repeated to `count` images; attention is the same with copies of all of them."""
    return np.resize(tokens, (count, *tokens.shape[1:]))

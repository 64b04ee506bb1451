"""An image to layers with transparency, which lie on each other."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import check_pil
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.flux_transformer_2d import PATCH
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.qwen_image_transformer_2d import LAYERED_SIDE, LAYERS
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.tasks.base import LoopInit, Task, TaskContext
from diffoundry.runtime.pipelines.tasks.prompt_editing import area_size
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, read_transparent
from diffoundry.runtime.random import randn_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LayerDecomposition"]

_SIDES = (LAYERED_SIDE, 1024)
_MOST = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerDecomposition(Task):
    """diffusers: `QwenImageLayeredPipeline`.

    The latents of all layers lie below one another, (B, C, (layers + 1) h, w): first those of the whole image, which
    the network generates too, and which are not decoded.

    Attributes:
        image: PIL image to split. One without transparency is opaque.
        layers: Layers of each result.
        resolution: Side of a square with as many pixels as a layer, 640 or 1024; layers have the ratio of the image.
    """

    name: ClassVar[str] = "layer_decomposition"
    label: ClassVar[str] = "splitting an image into layers"
    own_size: ClassVar[tuple[int, int] | None] = (LAYERED_SIDE, LAYERED_SIDE)
    required_args: ClassVar[tuple[str, ...]] = ("image",)
    from_image: ClassVar[bool] = True
    sized_by_image: ClassVar[bool] = True
    named_only: ClassVar[bool] = True

    image: "Image"
    layers: int = LAYERS
    resolution: int = LAYERED_SIDE

    def check(self, inputs: CommonInputs, family: Family) -> None:  # noqa: ARG002
        """See `Task.check`."""
        check_pil([self.image], "image")
        check_number("layers", self.layers, 1, _MOST, whole=True)
        if self.resolution not in _SIDES:
            raise InputError(f"resolution: got {self.resolution!r}, expected {' or '.join(map(str, _SIDES))}")

    def size(self, inputs: CommonInputs, default: tuple[int, int], vae: AutoencoderKL) -> tuple[int, int]:  # noqa: ARG002
        """See `Task.size`: about `resolution` x `resolution` pixels in the ratio of the image, in whole tokens.

        Raises:
            InputError: The call names another size.
        """
        multiple = vae.scale_factor * PATCH
        height, width = (side // multiple * multiple for side in area_size(self.resolution**2, self.image))
        for name, side in (("height", height), ("width", width)):
            asked = getattr(inputs, name)
            if asked is not None and asked != side:
                raise InputError(
                    f"{name}: got {asked}, expected {side}, which follows from resolution={self.resolution} and the "
                    f"ratio of the image; leave it out"
                )
        return height, width

    def begin(self, context: TaskContext) -> LoopInit:
        """Encode the likeliest latents of the image, and draw noise; diffusers: `prepare_latents`."""
        latents = context.vae.normalize(context.vae.mode(self._pixels(*context.size)))
        denoiser: Any = context.family.denoiser
        return LoopInit(
            latents=self._noise(context) * context.noise_scale,
            timesteps=start_at_index(context.scheduler, context.begin_index or 0),
            feeds=denoiser.reference_feeds([fill_batch(latents, context.images)], context.images, context.copies),
            decode=partial(self._decode, context.vae),
            count=context.images * self.layers,
        )

    def _noise(self, context: TaskContext) -> FloatArray:
        """Return the caller's `latents`, or noise, which diffusers draws layer by layer."""
        images, channels, height, width = context.shape
        count = self.layers + 1
        shape = images, channels, count * height, width
        if context.inputs.latents is not None:
            return replace(context, shape=shape).noise()
        drawn = randn_tensor((images, count, channels, height, width), context.generator).astype(np.float32)
        return drawn.swapaxes(1, 2).reshape(shape)

    def _decode(self, vae: AutoencoderKL, latents: FloatArray, output_type: str) -> tuple[Any, None]:
        """Return the layers without the whole image, those of the first result first; see `Run.decode`."""
        if output_type == "latent":
            return latents, None
        images, channels, _, width = latents.shape
        apart = latents.reshape(images, channels, self.layers + 1, -1, width)[:, :, 1:]
        apart = apart.swapaxes(1, 2).reshape(images * self.layers, channels, -1, width)
        return postprocess(vae.decode(vae.denormalize(apart)), output_type, len("RGBA")), None

    def _pixels(self, height: int, width: int) -> FloatArray:
        """Return the image as the VAE takes it, float32 (1, 4, H, W) in -1..1, resized as diffusers does."""
        from PIL.Image import Resampling

        resized = self.image.convert("RGBA").resize((width, height), resample=Resampling.LANCZOS)
        return read_transparent(resized)

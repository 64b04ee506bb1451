"""T2I-Adapters of a pipeline: their arguments, and the features that every call of the denoiser gets.

diffusers: `StableDiffusionAdapterPipeline`, `StableDiffusionXLAdapterPipeline`, `MultiAdapter`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import ImageInput, check_pil
from diffoundry.runtime.images.tensors import channels_last
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import T2I_ADAPTER
from diffoundry.runtime.models.t2i_adapter import T2IAdapter, is_feature
from diffoundry.runtime.pipelines.input_shapes import shape_of_input
from diffoundry.runtime.pipelines.joined_inputs import check_counts, number_for_each
from diffoundry.runtime.pipelines.tasks.source_images import image_size

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["AdapterFeatures", "AdapterInput", "T2IAdapterInputs", "T2IAdapters"]

AdapterInput: TypeAlias = "ImageInput | Sequence[ImageInput]"
"""For one adapter an image for all prompts or a list with one for each. For several adapters a list with one of these
for each of them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class T2IAdapterInputs:
    """The arguments for T2I-Adapters.

    Attributes:
        adapter_image: Prepared images (sketch, depth ...): PIL images, which are resized to the size that is generated;
            or arrays (H, W, C) or tensors (C, H, W) of that size, which the adapters get as they are, as a rule 0 to 1.
            C is 3, or 1 for adapters of grey images. diffusers calls it `image`.
        adapter_conditioning_scale: Factor of the features, for all adapters or a list with one for each. None is 1
            for one adapter, and for several the same part for each.
        adapter_conditioning_factor: The fraction of the steps, from the first on, in which they work; None is all.
            Steps are counted as `num_inference_steps` does it, also where a scheduler makes more.
    """

    adapter_image: "AdapterInput | None" = None
    adapter_conditioning_scale: float | Sequence[float] | None = None
    adapter_conditioning_factor: float | None = None

    @property
    def without_image(self) -> list[str]:
        """The arguments that were given and mean nothing without an image."""
        names = [field.name for field in fields(self) if field.name != "adapter_image"]
        return [name for name in names if getattr(self, name) is not None]

    def check(self, count: int, prompts: int) -> None:
        """Refuse arguments that do not fit the adapters or each other.

        Args:
            count: Number of adapters.
            prompts: Number of prompts.

        Raises:
            InputError: Subject, got, expected.
        """
        images = self.images(count)
        for image in images:
            image_size(image, "adapter_image")
        check_counts("adapter_image", images, prompts, "T2I-Adapter")
        self.scales(count)
        if self.adapter_conditioning_factor is not None:
            check_number("adapter_conditioning_factor", self.adapter_conditioning_factor, 0.0, 1.0)

    def images(self, count: int) -> list[Any]:
        """Return the input of each adapter: an image, or a list with one for each prompt.

        Raises:
            InputError: There are not as many as adapters.
        """
        image: Any = self.adapter_image
        if count == 1:
            return [list(image) if isinstance(image, list | tuple) else image]
        entries = list(image) if isinstance(image, list | tuple) else [image]
        if len(entries) != count:
            raise InputError(
                f"adapter_image: got {len(entries)}, expected a list of {count}: one for each T2I-Adapter of this "
                f"bundle"
            )
        return entries

    def scales(self, count: int) -> list[float]:
        """Return the factor of each adapter.

        Raises:
            InputError: Something else than numbers, or a list of another length.
        """
        name = "adapter_conditioning_scale"
        return number_for_each(name, self.adapter_conditioning_scale, count, 1.0 / count, "T2I-Adapter")


class T2IAdapters:
    """The T2I-Adapters of a bundle, in their order. Safe to share between threads.

    Attributes:
        names: Names of their components.
    """

    def __init__(self, session: EngineSession, denoiser: str) -> None:
        """Read the configs; engines are opened when first needed.

        Args:
            session: The engines.
            denoiser: Name of the component that takes the features.
        """
        self._models = [T2IAdapter(session, name) for name in session.with_role(T2I_ADAPTER)]
        self._session, self._denoiser = session, denoiser
        self.names = tuple(model.component for model in self._models)

    def check(self, inputs: T2IAdapterInputs, prompts: int, refused_by: str | None) -> None:
        """Refuse arguments that do not fit, before any work.

        Args:
            inputs: Of the call.
            prompts: Number of prompts.
            refused_by: Label of a task that has no T2I-Adapters; None where it has.

        Raises:
            InputError: Subject, got, expected.
        """
        if inputs.adapter_image is None:
            if inputs.without_image:
                raise InputError(
                    f"{inputs.without_image[0]} needs adapter_image, an image for every T2I-Adapter; pass both"
                )
            return
        if not self.names:
            raise InputError(
                "adapter_image: got one, but this bundle has no T2I-Adapter; export it with --t2i-adapter, or leave it "
                "out"
            )
        if refused_by is not None:
            raise InputError(f"adapter_image: {refused_by} has no T2I-Adapters; leave it out")
        inputs.check(len(self.names), prompts)

    def default_size(self, inputs: T2IAdapterInputs) -> tuple[int, int]:
        """Return height and width of the first image, rounded down to what the adapter takes.

        diffusers: `StableDiffusionAdapterPipeline._default_height_width`.
        """
        height, width = image_size(inputs.images(len(self.names))[0], "adapter_image")
        factor = self._models[0].factor
        return height // factor * factor, width // factor * factor

    def begin(
        self,
        inputs: T2IAdapterInputs | None,
        shape: Sequence[int],
        copies: int,
        repeats: int,
        scale_factor: int,
        steps: int,
    ) -> "AdapterFeatures | None":
        """Run the adapters, and return the source of the features of one run; None in a bundle without adapters.

        Args:
            inputs: Of the call, checked; None where no image guides it.
            shape: Of the latents, (B, C, h, w).
            copies: As `Guidance.copies`.
            repeats: Images for every prompt.
            scale_factor: Pixels to a latent.
            steps: Steps of the run as the caller counts them.

        Raises:
            InputError: An image has another size or number of channels than the adapter takes.
        """
        if not self.names:
            return None
        specs = {
            spec.name: shape_of_input(spec.shape, shape, copies=copies, scale_factor=scale_factor, owner="T2I-Adapters")
            for spec in self._session.inputs(self._denoiser)
            if is_feature(spec.name)
        }
        idle = self._session.idle_inputs(self._denoiser)
        off = {name: np.zeros(whole, np.float32) for name, whole in specs.items() if name not in idle}
        if inputs is None:
            return AdapterFeatures(off, off, None)
        zeros = {name: np.zeros(whole, np.float32) for name, whole in specs.items()}
        count, size = len(self._models), (shape[2] * scale_factor, shape[3] * scale_factor)
        sums: dict[str, FloatArray] = {}
        for model, image, scale in zip(self._models, inputs.images(count), inputs.scales(count), strict=True):
            for name, feature in model(_pixels(image, size, model.channels)).items():
                scaled = feature * np.float32(scale)
                sums[name] = sums[name] + scaled if name in sums else scaled
        features = {name: _rows(sums[name], repeats, zero) if name in sums else zero for name, zero in zeros.items()}
        factor = inputs.adapter_conditioning_factor
        return AdapterFeatures(features, off, None if factor is None else int(steps * factor))


class AdapterFeatures:
    """The features of one run; belongs to one thread."""

    def __init__(self, features: Feeds, off: Feeds, steps: int | None) -> None:
        """Keep the features.

        Args:
            features: For the first steps.
            off: For the others: zeros, without those that the denoiser does without.
            steps: Number of the first steps; None for all.
        """
        self._features, self._off, self._steps = features, off, steps

    def __call__(self, index: int) -> Feeds:
        """Return the denoiser's inputs for the step of this index."""
        return self._features if self._steps is None or index < self._steps else self._off


def _rows(feature: FloatArray, repeats: int, zero: FloatArray) -> FloatArray:
    """Repeat the features of the prompts to the rows of a call; in turns, a, b, a, b, as diffusers does it."""
    tiled = np.tile(feature, (repeats, 1, 1, 1)) if len(feature) > 1 else feature
    return np.tile(tiled, (len(zero) // len(tiled), 1, 1, 1))


def _pixels(image: Any, size: tuple[int, int], channels: int) -> FloatArray:
    """Return images as float32 (B, C, H, W). diffusers: `_preprocess_adapter_image`.

    Raises:
        InputError: They are no images, or arrays of another shape.
    """
    taken = channels_last(image)
    images = taken if isinstance(taken, list) else [taken]
    if all(isinstance(one, np.ndarray) for one in images):
        return _arrays(images, size, channels)
    check_pil(images, "adapter_image")
    pixels = np.stack([_resized(one, size, channels) for one in images])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _resized(image: "Image", size: tuple[int, int], channels: int) -> FloatArray:
    """Return (H, W, C) in 0..1; resized before the conversion, in diffusers' order."""
    from PIL.Image import Resampling

    resized = image.resize(size[::-1], resample=Resampling.LANCZOS).convert("L" if channels == 1 else "RGB")
    return np.asarray(resized).reshape(*size, channels).astype(np.float32) / np.float32(255.0)


def _arrays(images: Sequence[Any], size: tuple[int, int], channels: int) -> FloatArray:
    whole = images[0] if len(images) == 1 and images[0].ndim == 4 else np.stack(images)
    if whole.ndim != 4 or whole.shape[1:] != (*size, channels) or whole.dtype.kind != "f":
        raise InputError(
            f"adapter_image: got an array of {whole.dtype} {tuple(whole.shape[1:])}, expected floats "
            f"({size[0]}, {size[1]}, {channels}): height and width of the image, and the channels that the T2I-Adapter "
            f"takes"
        )
    if not np.isfinite(whole).all():
        raise InputError("adapter_image: got NaN or infinity, expected finite numbers")
    return np.ascontiguousarray(whole.transpose(0, 3, 1, 2), dtype=np.float32)

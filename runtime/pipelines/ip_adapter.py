"""IP-Adapters of a pipeline: images as prompts, beside the text.

Ye et al. 2023, https://arxiv.org/abs/2308.06721. diffusers: `IPAdapterMixin`, `prepare_ip_adapter_image_embeds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.image_projection import (
    ImageProjection,
    embeds_name,
    is_image_prompt_input,
    is_ip_adapter,
    level_of_mask,
    mask_name,
    scale_name,
)
from diffoundry.runtime.models.image_prompt_encoder import ImagePromptEncoder
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import CONNECTOR
from diffoundry.runtime.pipelines.guidance import Condition
from diffoundry.runtime.pipelines.image_prompt_masks import downsample_masks, read_masks
from diffoundry.runtime.pipelines.input_shapes import shape_of_input
from diffoundry.runtime.pipelines.ip_adapter_inputs import ImagePromptInputs, layer_scales

__all__ = ["ImagePrompts", "PreparedPrompts"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreparedPrompts:
    """The image prompts of one run.

    Attributes:
        conditional: Inputs of the denoiser of one row, (1, ...).
        unconditional: The same without an image.
    """

    conditional: Feeds
    unconditional: Feeds

    def extend(self, condition: Condition) -> Condition:
        """Add the image prompts to the condition of the prompts, the same for every row."""
        rows = len(next(iter(condition.conditional.values())))
        halves = [
            None if feeds is None else {**feeds, **{name: np.repeat(row, rows, axis=0) for name, row in own.items()}}
            for feeds, own in (
                (condition.conditional, self.conditional),
                (condition.unconditional, self.unconditional),
            )
        ]
        return replace(condition, conditional=halves[0] or {}, unconditional=halves[1])


class ImagePrompts:
    """The IP-Adapters of a bundle, in their order. Safe to share between threads.

    Attributes:
        names: Names of their components, without the image encoder.
        models: Their projections.
        encoder: The image encoder; None in a bundle without IP-Adapters.
    """

    negative = False
    """True if a negative prompt has an image of its own."""

    def __init__(self, session: EngineSession, denoiser: str) -> None:
        """Read the configs; engines are opened when first needed.

        Args:
            session: The engines.
            denoiser: Name of the component that takes the prompts.
        """
        self.names = tuple(name for name in session.with_role(CONNECTOR) if is_ip_adapter(name))
        self.models = [ImageProjection(session, name) for name in self.names]
        self.encoder = ImagePromptEncoder(session) if self.names else None
        self._session, self._denoiser = session, denoiser

    @property
    def used_components(self) -> tuple[str, ...]:
        """The components that an image prompt runs."""
        return (*self.names, *(() if self.encoder is None else (self.encoder.component,)))

    def check(self, inputs: ImagePromptInputs) -> None:
        """Refuse arguments that do not fit, before any work.

        Args:
            inputs: Of the call.

        Raises:
            InputError: Subject, got, expected.
        """
        if inputs.negative and not self.negative:
            raise InputError(
                f"{inputs.negative[0]}: got one, expected none: this bundle has no IP-Adapter of FLUX.1; leave it out"
            )
        if not inputs.given:
            if inputs.without_image:
                raise InputError(
                    f"{inputs.without_image[0]} needs ip_adapter_image, an image for every IP-Adapter; pass both"
                )
            return
        name = "ip_adapter_image" if inputs.ip_adapter_image is not None else "ip_adapter_image_embeds"
        if not self.names:
            raise InputError(
                f"{name}: got one, but this bundle has no IP-Adapter; export it with --ip-adapter, or leave it out"
            )
        if inputs.ip_adapter_image is None:
            return
        if inputs.ip_adapter_image_embeds is not None:
            raise InputError("ip_adapter_image and ip_adapter_image_embeds: got both, expected one of them")
        inputs.images(len(self.names))

    def prepare(
        self, inputs: ImagePromptInputs | None, shape: Sequence[int], guided: bool, scale_factor: int
    ) -> PreparedPrompts | None:
        """Encode the images, and return the image prompts of one run; None where the denoiser needs none.

        Args:
            inputs: Of the call, checked; None without image prompts.
            shape: Of the latents, (B, C, h, w).
            guided: True if unconditional rows are needed.
            scale_factor: Pixels to a latent.

        Raises:
            InputError: A scale, a mask or embeddings do not fit the images.
        """
        if not self.names:
            return None
        specs = {spec.name: spec for spec in self._session.inputs(self._denoiser) if is_image_prompt_input(spec.name)}
        if inputs is None and specs.keys() <= self._session.idle_inputs(self._denoiser):
            return None
        size = shape[2] * scale_factor, shape[3] * scale_factor
        tokens = [None] * len(self.models) if inputs is None else self._tokens(inputs, guided=guided)
        counts = [0 if pair is None else len(pair[0]) for pair in tokens]
        masks = [None] * len(tokens) if inputs is None else inputs.masks(counts)
        scales = [0.0] * len(tokens) if inputs is None else self.scales(inputs)
        conditional: dict[str, FloatArray] = {}
        unconditional: dict[str, FloatArray] = {}
        weights: dict[str, FloatArray] = {}
        for index, (model, pair, mask, scale) in enumerate(zip(self.models, tokens, masks, scales, strict=True)):
            name = embeds_name(index)
            if pair is None:
                pair = (_nothing(specs[name]),) * 2  # noqa: PLW2901
            maps = None if mask is None else read_masks(mask, len(pair[0]), size)
            rows = [_arranged(half, masked=maps is not None) for half in pair]
            _check_engine(specs[name], rows[0].shape)
            conditional[name], unconditional[name] = rows
            prompts = rows[0].shape[1]
            weights[scale_name(index)] = layer_scales(scale, model.layers, prompts)[None]
            weights |= _level_masks(index, specs, maps, prompts, shape, scale_factor)
        return PreparedPrompts(conditional={**conditional, **weights}, unconditional={**unconditional, **weights})

    def scales(self, inputs: ImagePromptInputs) -> list[Any]:
        """Return the scale of each IP-Adapter, for `layer_scales`."""
        return inputs.scales(len(self.names))

    def _tokens(self, inputs: ImagePromptInputs, *, guided: bool) -> list[tuple[FloatArray, FloatArray]]:
        """Return tokens of the images of each IP-Adapter, (images, T, D), and of no image."""
        if inputs.ip_adapter_image is None:
            pairs = inputs.embeds(len(self.models), guided=guided)
        else:
            assert self.encoder is not None, "there are IP-Adapters"
            images = inputs.images(len(self.models))
            pairs = [self.encoder(some, pooled=model.pooled) for some, model in zip(images, self.models, strict=True)]
        found = []
        for model, (embeds, negative) in zip(self.models, pairs, strict=True):
            axes = 2 if model.pooled else 3
            if embeds.ndim != axes or embeds.shape[-1] != model.width:
                expected = f"(images, {model.width})" if model.pooled else f"(images, tokens, {model.width})"
                raise InputError(
                    f"ip_adapter_image_embeds: got {embeds.shape}, expected {expected} for {model.component}"
                )
            both = embeds if negative is None else np.concatenate([embeds, negative])
            tokens = model(both)
            found.append((tokens[: len(embeds)], tokens[-len(embeds) :]))
        return found


def _nothing(spec: TensorSpec) -> FloatArray:
    """Tokens (1, T, D) of no image, which a scale of 0 leaves out."""
    tokens, width = spec.shape[2], spec.shape[3]
    assert isinstance(width, int), "as the exporter declares it"
    return np.zeros((1, tokens if isinstance(tokens, int) else 1, width), np.float32)


def _arranged(tokens: FloatArray, *, masked: bool) -> FloatArray:
    """Arrange tokens of images (N, T, D): side by side as one prompt, or each as one of its own for masks."""
    return tokens[None] if masked else tokens.reshape(1, 1, -1, tokens.shape[-1])


def _check_engine(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Refuse another number of prompts or tokens than an engine of one size takes.

    Raises:
        InputError: As said.
    """
    for axis, word in ((1, "masked image prompts"), (2, "tokens of image prompts")):
        size = spec.shape[axis]
        if isinstance(size, int) and size != shape[axis]:
            raise InputError(
                f"ip_adapter_image: got {shape[axis]} {word}, expected {size}: this engine was made for no other "
                f"number; pass one image without masks, or use an engine for onnxruntime or openvino"
            )


def _level_masks(
    index: int,
    specs: Mapping[str, TensorSpec],
    maps: FloatArray | None,
    prompts: int,
    shape: Sequence[int],
    scale_factor: int,
) -> Feeds:
    """Return the masks of one IP-Adapter at every level of the denoiser, ones where there are none."""
    feeds = {}
    for name, spec in specs.items():
        place = level_of_mask(name)
        if place is None or place[0] != index:
            continue
        own = ("batch", *spec.shape[2:])
        _, height, width = shape_of_input(own, shape, copies=1, scale_factor=scale_factor, owner="an IP-Adapter")
        sides = 1, prompts, height, width
        ones = np.ones(sides, np.float32)
        feeds[mask_name(*place)] = ones if maps is None else downsample_masks(maps, height * width).reshape(sides)
    return feeds

"""ControlNets of a pipeline: images that say where things are, as residuals for every call of the denoiser.

Zhang et al. 2023, https://arxiv.org/abs/2302.05543. diffusers: `StableDiffusionControlNetPipeline` and its kin.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bundle.dims import size_of
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import read_pixels
from diffoundry.runtime.models.controlnet_names import MID_RESIDUAL, is_controlnet, is_residual
from diffoundry.runtime.pipelines.condition import Condition, Feeds
from diffoundry.runtime.pipelines.control_arguments import Control, images_of, unguided
from diffoundry.runtime.pipelines.guidance import Guidance

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ControlNets", "Residuals"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Guide:
    """One ControlNet in one run.

    Attributes:
        name: Of the component.
        image: float32 (rows, 3, H, W) in 0..1.
        scales: For each step what its residuals are multiplied with; 0 where it is not run.
        pooled: Whether its residuals have one pixel each.
        inputs: Names of what it takes.
    """

    name: str
    image: FloatArray
    scales: tuple[float, ...]
    pooled: bool
    inputs: tuple[str, ...]


class ControlNets:
    """The ControlNets of a bundle, in their order. Safe to share between threads."""

    def __init__(self, components: EngineSession) -> None:
        """Read the configs; engines are opened when first needed."""
        self._components = components
        self.names = tuple(name for name in components.bundle.components if is_controlnet(name))
        configs = [components.bundle.config(name) for name in self.names]
        self._pooled = tuple(bool(config.get("global_pool_conditions")) for config in configs)

    def check(self, control: Control, prompts: int, label: str | None) -> None:
        """Refuse arguments that do not fit, before any work.

        Args:
            control: Of the call.
            prompts: How many there are.
            label: Of the task, when it is none that ControlNets guide.

        Raises:
            InputError: Subject, got, expected.
        """
        if control.control_image is None:
            given = [name for name, value in unguided(control).items() if value is not None]
            if given:
                raise InputError(f"{given[0]}: got it without control_image, expected an image for every ControlNet")
            return
        if not self.names:
            raise InputError(
                "control_image: got one, but this bundle has no ControlNet; export it with --controlnet, or leave it "
                "out"
            )
        if label is not None:
            raise InputError(f"control_image: {label} has no ControlNets; leave it out")
        control.check(len(self.names), prompts)

    def begin(
        self,
        control: Control,
        guidance: Guidance,
        condition: Condition,
        *,
        factor: int,
        copies: int,
        steps: int,
        part: "Callable[[Image], Image] | None",
    ) -> "Residuals":
        """What gives the residuals of one run.

        Args:
            control: Of the call, checked.
            guidance: How the denoiser is guided.
            condition: Of the prompts.
            factor: Pixels to a latent.
            copies: Images for every prompt.
            steps: Timesteps of the run, before any are cut from its end.
            part: As `Start.part`.

        Raises:
            InputError: An image is none, or no PIL image where only a part of it counts.
        """
        guides: list[_Guide] = []
        guess = bool(self._pooled and control.control_image is not None and (control.guess_mode or self._pooled[0]))
        alone = guess and guidance.copies > 1
        if control.control_image is not None:
            images = [_parts(image, part) for image in images_of(control.control_image, len(self.names))]
            rows = len(next(iter(condition.conditional.values())))
            for index, (name, image) in enumerate(zip(self.names, images, strict=True)):
                pixels = _rows(read_pixels(image), rows, copies)
                guides.append(
                    _Guide(
                        name=name,
                        image=pixels if alone else np.concatenate([pixels] * guidance.copies),
                        scales=control.scales(index, len(self.names), steps),
                        pooled=self._pooled[index],
                        inputs=tuple(spec.name for spec in self._inputs(name)),
                    )
                )
        return Residuals(
            self._components,
            guides,
            feeds=condition.conditional if alone else guidance.feeds(condition),
            factor=factor,
            alone=alone,
            graded=guess,
            taken=[spec for spec in self._inputs("unet") if is_residual(spec.name)] if self.names else [],
        )

    def _inputs(self, name: str) -> tuple[TensorSpec, ...]:
        """What a component takes; its engine is opened only where no manifest says it."""
        choice = self._components.choice(name)
        return self._components.engine(name).inputs if choice is None else choice.spec.inputs


class Residuals:
    """The residuals of one run; belongs to one thread."""

    def __init__(
        self,
        components: EngineSession,
        guides: Sequence[_Guide],
        *,
        feeds: Feeds,
        factor: int,
        alone: bool,
        graded: bool,
        taken: Sequence[TensorSpec],
    ) -> None:
        """Nothing is run yet.

        Args:
            components: The engines.
            guides: The ControlNets.
            feeds: What they take beside latents, timestep and image; may hold more.
            factor: Pixels to a latent.
            alone: Whether only the last of the guided rows, those of the prompts, have residuals.
            graded: Whether residuals of the first blocks count less, as in guess mode.
            taken: The residuals that the denoiser takes.
        """
        self._components = components
        self._guides = guides
        self._feeds = feeds
        self._factor = factor
        self._alone = alone
        self._graded = graded
        self._taken = taken
        self._zeros: dict[str, FloatArray] = {}

    def __call__(self, latents: FloatArray, timestep: FloatArray, index: int, copies: int) -> Feeds:
        """The denoiser's further inputs for a step; none where its graph takes none, zeros where nothing guides it.

        Args:
            latents: Scaled, (B, C, h, w).
            timestep: (1,).
            index: The step's place in the run.
            copies: Rows that the denoiser is fed for each of the latents.
        """
        if not self._taken:
            return {}
        rows = latents if self._alone else np.concatenate([latents] * copies)
        sums: dict[str, FloatArray] = {}
        for guide in self._guides:
            if guide.scales[index]:
                for name, residual in self._run(guide, rows, timestep, guide.scales[index]).items():
                    sums[name] = residual if name not in sums else sums[name] + residual
        feeds = {}
        for spec in self._taken:
            shape = self._shape(spec.shape, latents, copies)
            if spec.name not in sums:
                feeds[spec.name] = self._zero(spec.name, shape)
                continue
            given = sums[spec.name]
            if len(given) < shape[0]:
                given = np.concatenate([np.zeros_like(given)] * (copies - 1) + [given])
            feeds[spec.name] = given if given.shape == shape else np.array(np.broadcast_to(given, shape))
        return feeds

    def _run(self, guide: _Guide, rows: FloatArray, timestep: FloatArray, scale: float) -> dict[str, FloatArray]:
        """One ControlNet's residuals, scaled, in float32."""
        given: Mapping[str, Any] = {
            "sample": rows, "timestep": timestep, "controlnet_cond": guide.image, **self._feeds
        }  # fmt: skip
        outputs = self._components.run(guide.name, {name: given[name] for name in guide.inputs})
        down = [name for name in outputs if name != MID_RESIDUAL]
        grades = dict.fromkeys(outputs, np.float32(scale))
        if self._graded and not guide.pooled:  # diffusers: "logspace" from a tenth to one
            weights = np.logspace(-1, 0, len(outputs), dtype=np.float32) * np.float32(scale)
            grades = dict(zip((*down, MID_RESIDUAL), weights, strict=True))
        return {name: array * grades[name] for name, array in outputs.items()}

    def _shape(self, shape: tuple[int | str, ...], latents: FloatArray, copies: int) -> tuple[int, ...]:
        sizes = {"height": latents.shape[2] * self._factor, "width": latents.shape[3] * self._factor}
        rest = [size_of(dim, sizes) for dim in shape[1:]]
        assert None not in rest, f"a residual of the sizes {shape}"
        return (len(latents) * copies, *(size for size in rest if size is not None))

    def _zero(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """Zeros, made once a run."""
        if name not in self._zeros:
            self._zeros[name] = np.zeros(shape, np.float32)
        return self._zeros[name]


def _parts(image: Any, part: "Callable[[Image], Image] | None") -> Any:
    """What of an image, or of a list of them, is generated."""
    if part is None:
        return image
    items = image if isinstance(image, list) else [image]
    for item in items:
        if not hasattr(item, "crop"):
            raise InputError(f"control_image: got {type(item).__name__} with padding_mask_crop, expected PIL images")
    return [part(item) for item in items]


def _rows(pixels: FloatArray, rows: int, copies: int) -> FloatArray:
    """One image for all rows, or one for each prompt; diffusers: `prepare_image`."""
    return np.repeat(pixels, rows if len(pixels) == 1 else copies, axis=0)

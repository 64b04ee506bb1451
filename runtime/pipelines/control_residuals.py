"""The residuals of ControlNets in one run: their sums in each step, zeros or nothing where none runs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.input_shapes import shape_of_input
from diffoundry.runtime.pipelines.step_guidance import last_rows

__all__ = ["ActiveNet", "Residuals"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ActiveNet:
    """One ControlNet in one run.

    Attributes:
        model: The network.
        image: float32 (rows, 3, H, W), PIL images in 0..1 and arrays as they are; or latents, as the network sees them.
        scales: Factor of its residuals at each step; 0 where it is not run.
        feeds: Further inputs.
    """

    model: ControlNetModel
    image: FloatArray
    scales: tuple[float, ...]
    feeds: Feeds = field(default_factory=dict)


class Residuals:
    """The residuals of one run; belongs to one thread."""

    def __init__(
        self,
        nets: Sequence[ActiveNet],
        *,
        conditioning: Feeds,
        scale_factor: int,
        conditional_only: bool,
        serves_both: bool,
        guess_mode: bool,
        taken: Sequence[TensorSpec],
        idle: Collection[str],
    ) -> None:
        """Nothing is run yet.

        Args:
            nets: The ControlNets.
            conditioning: Inputs besides latents, timestep and image.
            scale_factor: Pixels to a latent.
            conditional_only: True if the networks run for the rows of the prompts alone.
            serves_both: True if those of the negative prompts get these residuals too, not zeros.
            guess_mode: As in `ControlNetModel.__call__`.
            taken: The denoiser's inputs for residuals.
            idle: Those that it does without where no network runs.
        """
        self._nets = nets
        self._conditioning = conditioning
        self._tokens = conditioning["encoder_hidden_states"].shape[1] if "encoder_hidden_states" in conditioning else 0
        self._scale_factor = scale_factor
        self._conditional_only = conditional_only
        self._serves_both = serves_both
        self._guess_mode = guess_mode
        self._taken = taken
        self._idle = frozenset(idle)
        self._zeros: dict[str, FloatArray] = {}

    def __call__(self, latents: FloatArray, timestep: float, index: int, copies: int) -> Feeds:
        """Return the denoiser's inputs for a step: the sums over ControlNets; where none runs zeros, or nothing.

        Args:
            latents: Scaled, (B, C, h, w).
            timestep: Of the step.
            index: Index of the step.
            copies: Rows that the denoiser is fed for each of the latents.
        """
        if not self._taken:
            return {}
        rows = latents if self._conditional_only else np.concatenate([latents] * copies)
        sums: dict[str, FloatArray] = {}
        for net in self._nets:
            scale = net.scales[index]
            if scale:
                own = last_rows({**self._conditioning, **net.feeds}, len(rows))
                image = net.image[-len(rows) :]
                residuals = net.model(rows, timestep, own, image, scale=scale, guess_mode=self._guess_mode)
                for name, residual in residuals.items():
                    sums[name] = residual if name not in sums else sums[name] + residual
        feeds = {}
        for spec in self._taken:
            if spec.name not in sums and spec.name in self._idle:
                continue
            shape = shape_of_input(
                spec.shape,
                latents.shape,
                copies=copies,
                scale_factor=self._scale_factor,
                owner="a ControlNet",
                tokens=self._tokens,
            )
            if spec.name not in sums:
                feeds[spec.name] = self._zero(spec.name, shape)
                continue
            total = sums[spec.name]
            if len(total) < shape[0]:
                other = total if self._serves_both else np.zeros_like(total)
                total = np.concatenate([other] * (copies - 1) + [total])
            feeds[spec.name] = total if total.shape == shape else _broadcast(total, shape, spec.name)
        return feeds

    def _zero(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """Return zeros, made once a run."""
        if name not in self._zeros or self._zeros[name].shape != shape:
            self._zeros[name] = np.zeros(shape, np.float32)
        return self._zeros[name]


def _broadcast(total: FloatArray, shape: tuple[int, ...], name: str) -> FloatArray:
    """Spread pooled residuals over all positions.

    Raises:
        BundleError: They are of another shape.
    """
    if total.ndim != len(shape) or any(have not in (1, want) for have, want in zip(total.shape, shape, strict=True)):
        raise BundleError(
            f"{name}: got residuals of shape {total.shape} from a ControlNet, expected {shape}, as the denoiser takes; "
            f"export the bundle again"
        )
    return np.array(np.broadcast_to(total, shape))

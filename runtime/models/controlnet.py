"""ControlNetModel: an image that guides the composition, as residuals for every call of the denoiser.

Zhang et al. 2023, section 3.2, https://arxiv.org/abs/2302.05543.
"""

from typing import ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.formats.config_values import flag
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = [
    "MID_RESIDUAL",
    "ControlNetModel",
    "block_residual_name",
    "controlnet_name",
    "is_controlnet",
    "is_residual",
    "residual_name",
    "single_block_residual_name",
]

MID_RESIDUAL = "mid_block_additional_residual"
"""Name of the residual that is added to the output of the denoiser's middle block."""

_DOWN = "down_block_additional_residual_"
_BLOCK = "block_controlnet_hidden_states_"
_SINGLE = f"single_{_BLOCK}"
_COMPONENT = "controlnet"


class ControlNetModel:
    """Runs one ControlNet. diffusers: `ControlNetModel`.

    Attributes:
        component: Name of the component.
        pooled: True if each residual is one value per channel, the same for all positions: `global_pool_conditions`.
        encodes_image: True if it sees the control image as latents of the VAE.
        draws_image: False if the latents are the likeliest ones, for which diffusers draws no random numbers.
        takes_mask: True if it takes a mask beside the image.
        takes_kept_part: True if it can take the mask and the kept part of an image that is inpainted.
        shifts_latents: True if the VAE's `shift_factor` counts for these latents.
        draws_apart: True if diffusers draws these latents from torch's global generator, not from that of the call.
        signed_pixels: True if the pixels that it sees are in -1..1.
        serves_both: True if its residuals for the prompts serve the negative prompts too.
        has_guess_mode: True if it has a guess mode.
        scales_itself: True if the network takes the scale, and its residuals are scaled already.
        modes: Number of the kinds of control images between which `control_mode` chooses; None for one kind.
    """

    encodes_image: bool = False
    draws_image: ClassVar[bool] = True
    takes_mask: bool = False
    takes_kept_part: bool = False
    shifts_latents: bool = True
    draws_apart: bool = False
    signed_pixels: ClassVar[bool] = False
    serves_both: ClassVar[bool] = False
    has_guess_mode: ClassVar[bool] = True
    scales_itself: ClassVar[bool] = False
    modes: int | None = None

    def __init__(self, session: EngineSession, component: str) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no config of it.
            ConfigError: `global_pool_conditions` is neither true nor false.
        """
        self.component = component
        config = session.bundle.config(component)
        self.pooled = flag(config, "global_pool_conditions", default=False, subject=f"{component}/config.json")
        self._session = session

    def __call__(
        self,
        sample: FloatArray,
        timestep: float,
        conditioning: Feeds,
        image: FloatArray,
        *,
        scale: float = 1.0,
        guess_mode: bool = False,
    ) -> dict[str, FloatArray]:
        """Return the scaled residuals by name.

        Args:
            sample: float32 (B, C, h, w), scaled by the scheduler.
            timestep: As the scheduler counts.
            conditioning: The denoiser's; inputs that the ControlNet does not take are left out.
            image: float32 (B, 3, H, W), as the ControlNet was trained, as a rule 0 to 1; or latents (B, C, h, w), if
                `encodes_image`, and the mask after them.
            scale: Factor of all residuals.
            guess_mode: True if residuals of the first blocks count less, rising from a tenth to one; only if
                `has_guess_mode`.
        """
        offered = self._offer(sample, timestep, conditioning, image)
        if self.scales_itself:
            return dict(self._run({**offered, "conditioning_scale": np.array([scale], np.float32)}))
        outputs = self._run(offered)
        factors = dict.fromkeys(outputs, np.float32(scale))
        if guess_mode and self.has_guess_mode and not self.pooled:  # diffusers: "logspace"
            names = [*(name for name in outputs if name != MID_RESIDUAL), MID_RESIDUAL]
            weights = np.logspace(-1, 0, len(outputs), dtype=np.float32) * np.float32(scale)
            factors = dict(zip(names, weights, strict=True))
        return {name: array * factors[name] for name, array in outputs.items()}

    def call_feeds(self, rows: int, guidance_scale: float, mode: int | None) -> Feeds:  # noqa: ARG002
        """Return further inputs that are the same in every step of a call; by default none.

        Args:
            rows: Of the sample.
            guidance_scale: Of the call.
            mode: Number of the kind of control image; None for a network with one kind.
        """
        return {}

    def _offer(self, sample: FloatArray, timestep: float, conditioning: Feeds, image: FloatArray) -> Feeds:
        """Return the inputs of a call, of which the graph may take a part; arguments as in `__call__`."""
        return {"timestep": time_feed(timestep), "sample": sample, "controlnet_cond": image, **conditioning}

    def _run(self, offered: Feeds) -> Feeds:
        """Run the network on those of the arrays that its graph takes.

        Raises:
            BundleError: It takes others.
        """
        names = [spec.name for spec in self._session.inputs(self.component)]
        unknown = [name for name in names if name not in offered]
        if unknown:
            raise BundleError(
                f"component {self.component!r}: got the input {unknown[0]!r}, expected only {', '.join(offered)}; its "
                f"graph is of another network, export the bundle again"
            )
        return self._session.run(self.component, {name: offered[name] for name in names})


def controlnet_name(index: int) -> str:
    """Return the folder of the ControlNet of this number: "controlnet", "controlnet_1" ...

    diffusers: `MultiControlNetModel.save_pretrained`.
    """
    return f"{_COMPONENT}_{index}" if index else _COMPONENT


def is_controlnet(name: str) -> bool:
    """Return whether a folder of a checkpoint holds a ControlNet."""
    return name == _COMPONENT or name.startswith(f"{_COMPONENT}_")


def residual_name(index: int) -> str:
    """Return the name of the residual of the denoiser's skip connection of this number, from 0 in block order."""
    return f"{_DOWN}{index}"


def block_residual_name(index: int) -> str:
    """Return the name of the residual of a transformer's blocks of this number, in their order."""
    return f"{_BLOCK}{index}"


def single_block_residual_name(index: int) -> str:
    """Return the name of the same of blocks that have the tokens of text and image in one sequence."""
    return f"{_SINGLE}{index}"


def is_residual(name: str) -> bool:
    """Return whether an input of a denoiser is a residual; zeros there change nothing."""
    return name == MID_RESIDUAL or name.startswith((_DOWN, _BLOCK, _SINGLE))

"""The arguments of PixArt's pipelines, under diffusers' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.checks.arguments import check_number, check_numbers, check_pixels, check_type
from diffoundry.runtime.checks.token_masks import check_token_mask
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.inputs import PromptInputs
from diffoundry.runtime.pipelines.systems.perturbed_attention import check_perturbed

__all__ = ["ALPHA_TOKENS", "SIGMA_TOKENS", "PixArtAlphaInputs", "PixArtSigmaInputs", "PixArtSigmaPAGInputs"]

ALPHA_TOKENS, SIGMA_TOKENS = 120, 300
"""Tokens of a prompt in the training of each."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PixArtAlphaInputs(PromptInputs):
    """The arguments of diffusers' `PixArtAlphaPipeline`.

    Attributes:
        prompt_attention_mask: (B, tokens), 1 for a token of `prompt_embeds` and 0 for padding; needed with them alone.
        negative_prompt_attention_mask: The same of `negative_prompt_embeds`.
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; likewise.
        num_inference_steps: Steps of the scheduler.
        timesteps: The caller's own timesteps instead, in descending order.
        sigmas: The caller's own sigmas instead.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        num_images_per_prompt: Images for every prompt.
        eta: DDIM's eta, 0 to 1.
        latents: Start noise, float32 (B, 4, h, w), instead of drawing it; with `use_resolution_binning` of the size
            that is generated.
        clean_caption: True removes links, markup and signs from prompts, for which the packages beautifulsoup4 and ftfy
            are needed. False only lowers them. None removes if both packages are installed, as diffusers does.
        use_resolution_binning: True generates in the size of the training with the closest ratio of height to width,
            and resizes the image. False generates in the size that was asked for.
        max_sequence_length: Tokens of a prompt with its padding.
    """

    prompt_attention_mask: Any = None
    negative_prompt_attention_mask: Any = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 20
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    guidance_scale: float = 4.5
    num_images_per_prompt: int = 1
    eta: float = 0.0
    latents: FloatArray | None = None
    clean_caption: bool | None = None
    use_resolution_binning: bool = True
    max_sequence_length: int = ALPHA_TOKENS

    def check(self) -> None:
        """Refuse wrong prompts, masks that do not fit their embeddings, and numbers out of range.

        Raises:
            InputError: As said.
        """
        PromptInputs.check(self)
        for prefix in ("", "negative_"):
            embeds = f"{prefix}prompt_embeds"
            name = f"{prefix}prompt_attention_mask"
            check_token_mask(name, getattr(self, name), embeds, getattr(self, embeds))
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        check_number("eta", self.eta, 0, 1.0)
        check_number("max_sequence_length", self.max_sequence_length, 2, whole=True)
        for name in ("timesteps", "sigmas"):
            check_numbers(name, getattr(self, name))
        if self.timesteps is not None and self.sigmas is not None:
            raise InputError("timesteps and sigmas: got both, expected one of them")
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))
        check_type("use_resolution_binning", self.use_resolution_binning, bool, "True or False")
        if self.clean_caption is not None:
            check_type("clean_caption", self.clean_caption, bool, "True or False")

    @property
    def steps(self) -> int:
        """Number of steps as the caller counts them."""
        own = self.timesteps if self.sigmas is None else self.sigmas
        return self.num_inference_steps if own is None else len(own)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PixArtSigmaInputs(PixArtAlphaInputs):
    """The arguments of diffusers' `PixArtSigmaPipeline`.

    Attributes:
        max_sequence_length: Tokens of a prompt with its padding.
    """

    max_sequence_length: int = SIGMA_TOKENS


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PixArtSigmaPAGInputs(PixArtSigmaInputs):
    """The arguments of diffusers' `PixArtSigmaPAGPipeline`.

    Attributes:
        pag_scale: Factor of the guidance away from perturbed attention; 0 runs without it.
        pag_adaptive_scale: Decrease of this factor for each timestep below 1000.
        pag_applied_layers: Names of the layers that are perturbed, or parts of them: "blocks.14". A name also means
            those that begin with it, so that "blocks.1" includes layers 10 to 19.
    """

    pag_scale: float = 3.0
    pag_adaptive_scale: float = 0.0
    pag_applied_layers: str | Sequence[str] = "blocks.1"

    def check(self) -> None:
        """See `PixArtAlphaInputs.check`."""
        PixArtSigmaInputs.check(self)
        check_perturbed(self)

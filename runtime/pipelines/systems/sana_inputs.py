"""The arguments of Sana's pipelines, under diffusers' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffoundry.runtime.checks.arguments import (
    as_list,
    check_embeddings,
    check_number,
    check_numbers,
    check_pixels,
    check_prompts,
    check_type,
)
from diffoundry.runtime.checks.token_masks import check_token_mask
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.inputs import PromptInputs
from diffoundry.runtime.pipelines.systems.perturbed_attention import check_perturbed
from diffoundry.runtime.pipelines.tasks.schedule import check_strength

if TYPE_CHECKING:
    from diffoundry.runtime.images.pixels import ImageInput

__all__ = [
    "ENCODER_TOKENS", "INSTRUCTION", "TOKENS", "SanaInputs", "SanaPAGInputs", "SanaSprintImageInputs",
    "SanaSprintInputs",
]  # fmt: skip

TOKENS = 300
"""Default of diffusers' `max_sequence_length`."""

ENCODER_TOKENS = 640
"""Tokens of a prompt with the default instruction, and some more; engines for one number of tokens read so many."""

INSTRUCTION = (
    (
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for "
        "image generation. Evaluate the level of detail in the user prompt:"
    ),
    (
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
        "relationships to create vivid and concrete scenes."
    ),
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",
    "Here are examples of how to transform or refine prompts:",
    (
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
        "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers."
    ),
    (
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
        "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
        "skyscrapers."
    ),
    (
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:"
    ),
    "User Prompt: ",
)
"""Lines that the language model reads before a prompt; default of diffusers' `complex_human_instruction`."""

_INTERMEDIATE = 1.3
"""Default of diffusers' `intermediate_timesteps`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _SanaImageInputs:
    """The arguments of all Sana pipelines, but for their texts.

    Attributes:
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; likewise.
        guidance_scale: Of Sana, 1 or less runs without guidance, at half the cost. Of Sana-Sprint, an input of the
            transformer.
        num_images_per_prompt: Images for every prompt.
        latents: Start noise, float32 (B, 32, h, w), instead of drawing it; with `use_resolution_binning` of the size
            that is generated.
        clean_caption: True removes links, markup and signs from prompts, for which the packages beautifulsoup4 and ftfy
            are needed. False only lowers them.
        use_resolution_binning: True generates in the size of the training with the closest ratio of height to width,
            and resizes the image. False generates in the size that was asked for.
        max_sequence_length: Tokens of a prompt with its padding.
        complex_human_instruction: Lines that the text encoder reads before a prompt; None for none.
    """

    height: int | None = None
    width: int | None = None
    guidance_scale: float = 4.5
    num_images_per_prompt: int = 1
    latents: FloatArray | None = None
    clean_caption: bool = False
    use_resolution_binning: bool = True
    max_sequence_length: int = TOKENS
    complex_human_instruction: Sequence[str] | None = INSTRUCTION

    def _check_image(self) -> None:
        """Refuse numbers out of range, and other types.

        Raises:
            InputError: As said.
        """
        check_number("guidance_scale", self.guidance_scale, 0, np.inf)
        check_number("max_sequence_length", self.max_sequence_length, 2, whole=True)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))
        for name in ("use_resolution_binning", "clean_caption"):
            check_type(name, getattr(self, name), bool, "True or False")
        lines = self.complex_human_instruction
        if isinstance(lines, str) or not (lines is None or all(isinstance(line, str) for line in lines)):
            raise InputError(
                f"complex_human_instruction: got {lines!r}, expected a list of lines such as ['User Prompt: '], or None"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SanaInputs(_SanaImageInputs, PromptInputs):
    """The arguments of diffusers' `SanaPipeline` and `SanaControlNetPipeline`.

    Attributes:
        prompt_attention_mask: (B, tokens), 1 for a token of `prompt_embeds` and 0 for padding; needed with them alone.
        negative_prompt_attention_mask: The same of `negative_prompt_embeds`.
        num_inference_steps: Steps of the scheduler.
        timesteps: The caller's own timesteps instead, in descending order.
        sigmas: The caller's own sigmas instead.
        eta: DDIM's eta, 0 to 1.
        control_image: Image for the ControlNet, prepared as in its training, or one for each prompt. It is resized to
            the size that is generated. None generates without the ControlNet.
        controlnet_conditioning_scale: Weight of the ControlNet.
    """

    prompt_attention_mask: Any = None
    negative_prompt_attention_mask: Any = None
    num_inference_steps: int = 20
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    eta: float = 0.0
    control_image: "ImageInput | None" = None
    controlnet_conditioning_scale: float | None = None

    def check(self) -> None:
        """Refuse wrong prompts, masks that do not fit their embeddings, and numbers out of range.

        Raises:
            InputError: As said.
        """
        PromptInputs.check(self)
        self._check_image()
        for prefix in ("", "negative_"):
            embeds = f"{prefix}prompt_embeds"
            name = f"{prefix}prompt_attention_mask"
            check_token_mask(name, getattr(self, name), embeds, getattr(self, embeds))
        check_number("eta", self.eta, 0, 1.0)
        for name in ("timesteps", "sigmas"):
            check_numbers(name, getattr(self, name))
        if self.timesteps is not None and self.sigmas is not None:
            raise InputError("timesteps and sigmas: got both, expected one of them")
        scale = self.controlnet_conditioning_scale
        if scale is not None:
            check_number("controlnet_conditioning_scale", scale, -np.inf)
            if self.control_image is None:
                raise InputError(
                    "controlnet_conditioning_scale: got one without control_image, expected both; pass the image"
                )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SanaPAGInputs(SanaInputs):
    """The arguments of diffusers' `SanaPAGPipeline`.

    Attributes:
        pag_scale: Factor of the guidance away from perturbed attention; 0 runs without it.
        pag_adaptive_scale: Decrease of this factor for each timestep below 1000.
        pag_applied_layers: Names of the layers that are perturbed, or parts of them: "transformer_blocks.8". A name
            also means those that begin with it, so that "transformer_blocks.1" includes layers 10 to 19.
    """

    pag_scale: float = 3.0
    pag_adaptive_scale: float = 0.0
    pag_applied_layers: str | Sequence[str] = "transformer_blocks.0"

    def check(self) -> None:
        """See `SanaInputs.check`."""
        SanaInputs.check(self)
        check_perturbed(self)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SanaSprintInputs(_SanaImageInputs):
    """The arguments of diffusers' `SanaSprintPipeline`.

    Attributes:
        prompt: One prompt or several; None where `prompt_embeds` are given.
        prompt_embeds: float32 (B, tokens, D), fed to the transformer instead of encoded prompts.
        prompt_attention_mask: (B, tokens), 1 for a token of `prompt_embeds` and 0 for padding; needed with them alone.
        num_inference_steps: Steps of the scheduler.
        max_timesteps: The first timestep, at most pi / 2.
        intermediate_timesteps: The second of two steps; other numbers of steps have none, and ignore it.
    """

    prompt: str | Sequence[str] | None = None
    prompt_embeds: FloatArray | None = None
    prompt_attention_mask: Any = None
    num_inference_steps: int = 2
    max_timesteps: float = 1.57080
    intermediate_timesteps: float | None = _INTERMEDIATE

    @property
    def count(self) -> int:
        """Number of prompts."""
        if self.prompt_embeds is not None:
            return len(self.prompt_embeds)
        return 1 if isinstance(self.prompt, str) else len(self.prompt or ())

    def texts(self) -> list[str]:
        """The prompts to encode; none where embeddings are given instead."""
        return [] if self.prompt is None else as_list(self.prompt, self.count)

    def check(self) -> None:
        """Refuse wrong prompts, a mask that does not fit its embeddings, and numbers out of range.

        Raises:
            InputError: As said.
        """
        check_prompts("prompt", self.prompt)
        if (self.prompt is None) == (self.prompt_embeds is None):
            got = "neither" if self.prompt is None else "both"
            raise InputError(f"prompt and prompt_embeds: got {got}, expected one of them")
        check_embeddings("prompt_embeds", self.prompt_embeds, self.count, 3)
        check_token_mask("prompt_attention_mask", self.prompt_attention_mask, "prompt_embeds", self.prompt_embeds)
        self._check_image()
        check_number("max_timesteps", self.max_timesteps, 0, _MOST)
        if self.intermediate_timesteps is not None:
            check_number("intermediate_timesteps", self.intermediate_timesteps, 0, self.max_timesteps)


_MOST = 1.5708
"""Largest timestep, about pi / 2."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SanaSprintImageInputs(SanaSprintInputs):
    """The arguments of diffusers' `SanaSprintImg2ImgPipeline`.

    Attributes:
        image: The image to start from, or one for each prompt, resized to the size that is generated.
        strength: Fraction of the schedule that is run, above 0 to 1. Less changes the image less.
    """

    image: "ImageInput | None" = None
    strength: float = 0.6

    def check(self) -> None:
        """See `SanaSprintInputs.check`; an image is needed too.

        Raises:
            InputError: As said.
        """
        SanaSprintInputs.check(self)
        check_strength(self.strength)
        if self.image is None:
            raise InputError("image: got none, expected the image to start from")

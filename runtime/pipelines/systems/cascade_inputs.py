"""The arguments that Stable Cascade and Würstchen share, in both stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, check_number, check_pixels, check_prompts, check_texts
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["CascadeTexts", "check_decoder_inputs", "check_prior_inputs", "read_features"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CascadeTexts:
    """The arguments that every stage has.

    Attributes:
        prompt: One prompt or several; None where embeddings are passed.
        negative_prompt: One for all prompts, or one for each.
        num_images_per_prompt: Images for every prompt; of a decoder, for every row of embeddings.
        latents: Start noise, float32, instead of drawing it.
        embeddings: Argument for embeddings instead of prompts, whose rows are counted. None where there is none.
    """

    embeddings: ClassVar[str | None] = None

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    num_images_per_prompt: int = 1
    latents: FloatArray | None = None

    @property
    def given_embeddings(self) -> FloatArray | None:
        """Embeddings instead of prompts."""
        return None if self.embeddings is None else getattr(self, self.embeddings)

    @property
    def count(self) -> int:
        """Number of prompts."""
        if self.prompt is None:
            return 1 if self.given_embeddings is None else len(self.given_embeddings)
        return 1 if isinstance(self.prompt, str) else len(self.prompt)

    @property
    def texts(self) -> list[str]:
        """The prompts; none where embeddings are passed."""
        return [] if self.given_embeddings is not None else as_list(self.prompt or "", self.count)

    @property
    def negatives(self) -> list[str]:
        """The negative prompt of each prompt, empty where there is none."""
        return as_list(self.negative_prompt or "", self.count)

    def check_texts(self) -> None:
        """Refuse texts that are none, and anything but texts or their embeddings, for both halves of guidance.

        Raises:
            InputError: As said.
        """
        check_prompts("prompt", self.prompt)
        name = self.embeddings
        if name is not None:
            if (self.prompt is None) == (self.given_embeddings is None):
                got = "neither" if self.prompt is None else "both"
                raise InputError(f"prompt and {name}: got {got}, expected one of them")
            if self.negative_prompt is not None and getattr(self, f"negative_{name}") is not None:
                raise InputError(f"negative_prompt and negative_{name}: got both, expected at most one of them")
        check_texts("negative_prompt", self.negative_prompt, self.count)


def check_prior_inputs(inputs: Any) -> None:
    """Refuse numbers of a prior that are out of range.

    Raises:
        InputError: As said.
    """
    check_number("guidance_scale", inputs.guidance_scale, 0, np.inf)
    for name in ("height", "width"):
        check_pixels(name, getattr(inputs, name))


def check_decoder_inputs(inputs: Any) -> None:
    """Refuse missing embeddings, another number of them than of prompts, and numbers out of range.

    Raises:
        InputError: As said.
    """
    rows, prompts = len(read_features(inputs.image_embeddings)), inputs.count
    check_number("guidance_scale", inputs.guidance_scale, 0, np.inf)
    if rows % prompts:
        raise InputError(
            f"image_embeddings: got {rows} for {prompts} prompts, expected the same number for each prompt"
        )


def read_features(value: Any) -> FloatArray:
    """Return the result of a prior as float32 (B, C, h, w).

    Raises:
        InputError: It is none.
    """
    if value is None:
        raise InputError(
            "image_embeddings: got none, expected those of a prior, (B, C, h, w); chain the bundles: 'diffoundry "
            "generate PRIOR+DECODER'"
        )
    given = [value] if is_tensor(value) or not isinstance(value, Sequence) else value
    parts: list[Any] = [to_array(part) if is_tensor(part) else part for part in given]
    right = [isinstance(part, np.ndarray) and part.ndim == 4 and part.dtype.kind == "f" for part in parts]
    if not parts or not all(right):
        raise InputError(
            f"image_embeddings: got {type(value).__name__}, expected floats (B, C, h, w), or a list of them"
        )
    return np.concatenate(parts).astype(np.float32)

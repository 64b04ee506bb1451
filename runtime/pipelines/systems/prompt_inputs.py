"""The prompt of systems whose guidance has no negative prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from diffoundry.runtime.checks.arguments import as_list, check_prompts
from diffoundry.runtime.errors import InputError

__all__ = ["PromptInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptInputs:
    """A prompt, several images of it, and no negative prompt.

    Attributes:
        unconditional: Words for the prompt that guidance leads away from.
        prompt: One prompt or several.
        negative_prompt: Refused: guidance is always away from `unconditional`.
        num_images_per_prompt: Images for every prompt.
    """

    unconditional: ClassVar[str]

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    num_images_per_prompt: int = 1

    @property
    def texts(self) -> list[str]:
        """The prompts."""
        return as_list(self.prompt or "", 1)

    @property
    def count(self) -> int:
        """Number of prompts."""
        return len(self.texts)

    def check_prompt(self) -> None:
        """Refuse missing prompts, and negative prompts.

        Raises:
            InputError: As said.
        """
        check_prompts("prompt", self.prompt)
        if self.prompt is None:
            raise InputError("prompt: got none, expected a text")
        if self.negative_prompt is not None:
            raise InputError(
                f"negative_prompt: got {self.negative_prompt!r}, expected none: this checkpoint is guided away from "
                f"{self.unconditional}; leave it out"
            )

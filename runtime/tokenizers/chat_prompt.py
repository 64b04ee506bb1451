"""The text around a prompt that a language model was trained with, rendered from a chat template at export."""

import json
from dataclasses import dataclass
from pathlib import Path

from diffoundry.runtime.errors import BundleError

__all__ = ["CHAT_FILE", "ChatPrompt", "read_chat_prompt"]

CHAT_FILE = "chat_prompt.json"
"""File beside a tokenizer with the text before and after a prompt."""

_FIELDS = ("prefix", "suffix")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A chat of one message of the user, whose text is a prompt.

    Attributes:
        prefix: Text before the prompt.
        suffix: Text after it, up to the model's answer.
    """

    prefix: str
    suffix: str

    def render(self, prompt: str) -> str:
        """Return the whole text. transformers: `apply_chat_template` with `tokenize=False`."""
        return self.prefix + prompt + self.suffix

    def cut_from(self, truncated: str) -> str:
        """Return the part of a prompt in a text that was cut off after it."""
        return "" if self.suffix.endswith(truncated) else truncated.removesuffix(self.suffix)

    def dump(self) -> str:
        """Return the content of `CHAT_FILE`."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def read_chat_prompt(content: object, path: Path) -> ChatPrompt:
    """Read the content of `CHAT_FILE`.

    Args:
        content: The parsed file, which is not trusted.
        path: Its path in messages.

    Raises:
        BundleError: It is no object with two texts.
    """
    if not isinstance(content, dict) or not all(isinstance(content.get(name), str) for name in _FIELDS):
        raise BundleError(f"{path}: got no 'prefix' and 'suffix', expected two texts; export the bundle again")
    return ChatPrompt(*(content[name] for name in _FIELDS))

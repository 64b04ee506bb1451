"""The LoRAs that requests may name: files of a folder that the operator allows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["LoraFolder"]

_ENDING = ".safetensors"


@dataclass(frozen=True, slots=True)
class LoraFolder:
    """The LoRAs that clients may name.

    Attributes:
        folder: With safetensors files; None where the operator allows none.
        option: Names the operator's option in messages.
    """

    folder: Path | None
    option: str = "--lora-dir"

    def names(self) -> dict[str, Path]:
        """Return the files that are there now, by name without ending. Names that no text can hold are left out.

        Raises:
            InputError: The folder cannot be read.
        """
        if self.folder is None:
            return {}
        try:
            paths = sorted(self.folder.iterdir())
        except OSError as error:
            raise InputError(
                f"loras: the folder of the operator cannot be read ({error.strerror}); leave it out, or tell the "
                f"operator ({self.option})"
            ) from error
        return {path.stem: path for path in paths if path.suffix == _ENDING and path.is_file() and _is_text(path.stem)}

    def choose(self, texts: Sequence[str]) -> dict[str, float]:
        """Return paths and scales of NAME or NAME:SCALE.

        A name is looked up in the list of files, so no text of a client becomes part of a path.

        Raises:
            InputError: No such LoRA, one twice, a scale that is no number, or the folder cannot be read.
        """
        known = self.names()
        chosen: dict[str, float] = {}
        for text in texts:
            name, colon, number = (text, "", "") if text in known or ":" not in text else text.rpartition(":")
            if name not in known:
                listed = (
                    f"one of {', '.join(known)}" if known else f"none: the operator allows no LoRAs ({self.option})"
                )
                raise InputError(f"loras: got {name!r}, expected {listed}.{did_you_mean(name, known)}")
            if str(known[name]) in chosen:
                raise InputError(f"loras: got {name!r} twice, expected it once")
            if colon and not re.fullmatch(r"-?[0-9]{0,3}\.?[0-9]{1,6}", number):
                raise InputError(f"loras: got {text!r}, expected NAME or NAME:SCALE such as {name}:0.8")
            chosen[str(known[name])] = float(number) if colon else 1.0
        return chosen


def _is_text(name: str) -> bool:
    """Return whether a file name is valid Unicode, so that JSON can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

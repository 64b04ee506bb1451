"""Reads text files of prompts, one a line."""

import os
import re
from pathlib import Path

from diffoundry.runtime.errors import InputError

__all__ = ["read_prompt_file"]

_MOST_BYTES = 2**24

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_prompt_file(path: str | os.PathLike[str], subject: str) -> list[str]:
    """Read the lines of a text file that are not blank, without the blanks at their ends.

    A byte order mark, which editors of Windows write, is skipped.

    Args:
        path: A text file in UTF-8.
        subject: Option or argument, for messages: "--prompts".

    Raises:
        InputError: It cannot be read, or is in another encoding.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise InputError(f"{subject} {path}: got more than {_MOST_BYTES} bytes, expected a text file with prompts")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{subject} {path}: cannot be read ({error.strerror}); expected a text file in UTF-8"
        ) from error
    except UnicodeDecodeError as error:
        reason = "it is UTF-16" if data.startswith(_UTF16_MARKS) else str(error)
        raise InputError(
            f"{subject} {path}: cannot be read ({reason}); expected a text file in UTF-8, save it as that"
        ) from error
    return [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]

"""Makes the text of files safe for a terminal: a bundle's strings cannot move the cursor or set the title."""

import json
import re
from typing import Any

__all__ = ["safe_json", "safe_text"]

_UNSAFE = "\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff"
"""Controls beyond ASCII, marks that reverse the reading direction, line separators, and halves of surrogate pairs."""

_CONTROLS = re.compile(f"[\x00-\x08\x0b-\x1f{_UNSAFE}]")

_UNSAFE_IN_JSON = re.compile(f"[{_UNSAFE}]")


def safe_text(text: str) -> str:
    r"""Write control characters as escapes, such as `\x1b`; tabs, line breaks and everything printable stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def safe_json(data: Any, *, ascii_only: bool = False) -> str:
    """Write indented JSON that a terminal and any encoding take; it parses to the same data.

    Args:
        data: JSON values.
        ascii_only: Write every character beyond ASCII as an escape.
    """
    text = json.dumps(data, indent=2, ensure_ascii=ascii_only)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

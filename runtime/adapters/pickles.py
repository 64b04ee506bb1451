"""Refuses pickled files, and says how to convert each kind."""

import os
from pathlib import Path
from typing import Any

from diffoundry.runtime.errors import InputError

__all__ = ["adapter_file", "check_not_pickled"]

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")

_PEEK = 1 << 20
"""Bytes at either end of a file that are searched for names; the oldest format has them near the end."""

_LOAD = "torch.load(FILE, weights_only=True)"
_WHOLE = f"safetensors.torch.save_file({{k: v.contiguous() for k, v in {_LOAD}.items()}}, NEW_FILE)"
_NESTED = f"safetensors.torch.save_file({{k: v.contiguous() for k, v in {_LOAD}['state_dict'].items()}}, NEW_FILE)"
_EMBEDDING = (
    f"safetensors.torch.save_file({{WORD: next(iter({_LOAD}['string_to_param'].values())).detach()}}, NEW_FILE)"
)
_ALLOW = "torch.serialization.add_safe_globals([torch.nn.ParameterDict]); "


def adapter_file(path: Any) -> Path:
    """Return the path of a LoRA or an embedding.

    Raises:
        InputError: It is no path, such as a dict of tensors, or a pickled file.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path: got {type(path).__name__}, expected the path of a .safetensors file")
    check_not_pickled(Path(path))
    return Path(path)


def check_not_pickled(path: Path) -> None:
    """Refuse the endings of pickled files, with the conversion for what is inside; nothing is unpickled.

    Raises:
        InputError: It is one.
    """
    if path.suffix in _PICKLES:
        raise InputError(
            f"{path}: is a pickled file, which can run code when read, and is refused; expected .safetensors; convert "
            f"a file that you trust with {_conversion(path)}"
        )


def _conversion(path: Path) -> str:
    """Return a line of Python that converts the file; the word of an embedding is left to the user."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_PEEK)
            stream.seek(max(0, path.stat().st_size - _PEEK))
            held = start + stream.read()
    except OSError:
        return _WHOLE
    if b"string_to_param" in held:  # textual inversions of AUTOMATIC1111 and of the original code
        if b"ParameterDict" not in held:
            return _EMBEDDING
        zipped = start.startswith(b"PK")  # torch's first format cannot be read without running its code
        return _ALLOW + _EMBEDDING if zipped else _EMBEDDING.replace("weights_only=True", "weights_only=False")
    return _NESTED if b"state_dict" in held else _WHOLE

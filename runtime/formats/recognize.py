"""Recognizes files that often lie where safetensors or JSON is expected, by their first bytes."""

from pathlib import Path

__all__ = ["describe_link", "recognize"]

_HEAD = 512
"""Bytes that are looked at."""

_SHOWN = 50
"""Characters of a text that a message shows."""

_CONVERT = "rewrite it with 'diffoundry convert' if you trust its source"


def recognize(path: Path) -> str | None:
    """Describe a file of another kind, with the remedy: "is a web page ...; download it again". None if unknown.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        return "is empty; download it again"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder"
    if head.startswith(b"GGUF"):
        return (
            "is a GGUF file, whose quantized weights are not supported; expected safetensors in fp16, bf16 or fp32, "
            "download such a file"
        )
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return f"is a pickled file, which can run code when read, and is refused; expected safetensors; {_CONVERT}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            "is a web page, not the file itself; download the file again, on a hub from an address with /resolve/ or "
            "with 'hf download'"
        )
    return _describe_text(head)


def describe_link(path: Path) -> str | None:
    """Describe a link to nowhere, with the remedy; None for anything else."""
    if not path.is_symlink() or path.exists():
        return None
    return (
        f"is a link to {path.readlink()}, which does not exist; the download is incomplete or the cache was pruned, "
        f"download it again"
    )


def _describe_text(head: bytes) -> str | None:
    """Describe a text file by its first line; None if it is none, or may be JSON."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return None
        text = head[: error.start].decode("utf-8")
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if not line or line[0] in "{[" or not all(char.isprintable() or char in "\t\r\n" for char in text):
        return None
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
    return f"is a text file that begins with {shown!r}; download the file again"

"""Options --lora and --embedding: files, with a scale or a word after a colon."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from diffoundry.runtime.cli.console import remark
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["adapter_options", "check_like", "load_adapters", "parse_lora"]

Command = TypeVar("Command", bound=Callable[..., Any])

_ENDING = ".safetensors"
_LISTED = 3


_adapter = options_in("LoRA and embeddings")


def adapter_options(command: Command) -> Command:
    """Add --lora and --embedding."""
    for option in (
        _adapter(
            "--embedding", "embedding", multiple=True, metavar="FILE[:TOKEN]",
            help="Load a textual inversion embedding as the word TOKEN. May be repeated.",
        ),
        _adapter(
            "--lora", "lora", multiple=True, metavar="FILE[:SCALE]", help="Load a LoRA. May be repeated.  [scale: 1]"
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def parse_lora(text: str) -> tuple[str, float]:
    """Read "x.safetensors:0.8": file and scale.

    Raises:
        InputError: The text after the colon is no number.
    """
    path, scale = _split(text)
    try:
        return path, 1.0 if scale is None else float(scale)
    except ValueError as error:
        raise InputError(f"--lora: got {text!r}, expected FILE or FILE:SCALE such as x.safetensors:0.8") from error


def load_adapters(pipeline: DiffusionPipeline, loras: Sequence[str], embeddings: Sequence[str]) -> None:
    """Load LoRAs and embeddings, and report unused tensors.

    Raises:
        InputError: As `Loras.load` and `TextualInversions.load`.
    """
    for number, text in enumerate(loras):
        path, scale = parse_lora(text)
        unused = pipeline.loras.load(path, scale=scale, name=f"{path} ({number + 1})").unused
        if unused:
            more = f" and {len(unused) - _LISTED} more" if len(unused) > _LISTED else ""
            remark(f"warning: {path}: these tensors are unused: {', '.join(unused[:_LISTED])}{more}")
    for text in embeddings:
        path, token = _split(text)
        word, count = pipeline.embeddings.load(path, token=token)
        remark(f"note: {path}: the word {word} loads {count} vectors")


def check_like(image: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse to generate an image again without the files that it was generated with.

    Raises:
        InputError: It was generated with LoRAs, embeddings or images for ControlNets, and no option names these files.
    """
    for name in ("lora", "embedding", "control_image"):
        if image.get(name) and not given.get(name):
            files = " ".join(f"--{name.replace('_', '-')} {text}" for text in image[name])
            raise InputError(
                f"--like: the image was generated with {files}; pass that too, with where the files are now"
            )


def _split(text: str) -> tuple[str, str | None]:
    """Split a file from the text after its ending and a colon."""
    head, mark, tail = text.partition(f"{_ENDING}:")
    return (head + _ENDING, tail) if mark else (text, None)

"""Options --lora and --embedding: files, with a scale or a word after a colon."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from diffoundry.runtime.adapters.embedding import NO_WORDS
from diffoundry.runtime.cli.console import remark, warn
from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.safetensors import Safetensors
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["adapter_options", "load_adapters", "parse_lora"]

Command = TypeVar("Command", bound=Callable[..., Any])

_ENDING = ".safetensors"
_LISTED = 3

_adapter = options_in("LoRA and embeddings")


def adapter_options(command: Command) -> Command:
    """Add --lora and --embedding."""
    for option in (
        _adapter(
            "--embedding", "embedding", multiple=True, metavar="FILE[:TOKEN]",
            help="Load a textual inversion embedding as the word TOKEN. May be repeated.  [token: the file's]",
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


def load_adapters(pipeline: PipelineBase, loras: Sequence[str], embeddings: Sequence[str]) -> list[str]:
    """Load LoRAs and embeddings, and report unused tensors.

    An embedding without a word of its own, as AUTOMATIC1111 writes it, gets the name of its file.

    Returns:
        The words of the embeddings.

    Raises:
        InputError: As `Loras.load` and `TextualInversions.load`, or the pipeline takes none.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        for option, given in (("--lora", loras), ("--embedding", embeddings)):
            if given:
                name = pipeline.session.bundle.pipeline_class
                raise InputError(f"{option}: got {given[0]}, but a {name} takes none here; leave it out")
        return []
    for number, text in enumerate(loras):
        path, scale = parse_lora(text)
        report = pipeline.loras.load(path, scale=scale, name=f"{path} ({number + 1})")
        for note in report.notes:
            remark(f"note: {path}: {note}")
        unused = report.unused
        if unused:
            more = f" and {len(unused) - _LISTED} more" if len(unused) > _LISTED else ""
            warn(f"warning: {path}: these tensors are unused: {', '.join(unused[:_LISTED])}{more}")
    words = []
    for text in embeddings:
        path, token = _split(text)
        word, count = pipeline.embeddings.load(path, token=_word_of_file(Path(path)) if token is None else token)
        remark(f"note: {path}: the word {word} loads {count} vectors")
        words.append(word)
    return words


def _word_of_file(path: Path) -> str | None:
    """Return the name of a file whose tensors do not name the word; None where they do, or where it is no such file."""
    if path.suffix != _ENDING or not path.is_file():
        return None
    return path.stem if set(Safetensors(path)) <= NO_WORDS else None


def _split(text: str) -> tuple[str, str | None]:
    """Split a file from the text after its ending and a colon."""
    head, mark, tail = text.partition(f"{_ENDING}:")
    return (head + _ENDING, tail) if mark else (text, None)

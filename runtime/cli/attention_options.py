"""Options of `generate` for Prompt-to-Prompt and heat maps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.heat_map import draw_heat_map
from diffoundry.runtime.images.save import save_image
from diffoundry.runtime.pipelines.attention.edit_options import DEFAULT_WINDOW, EDIT_TYPES
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.output import PipelineOutput

__all__ = ["ATTENTION_SETTINGS", "attention_options", "save_heat_maps", "take_attention_settings"]

Command = TypeVar("Command", bound=Callable[..., Any])

_EDIT_SETTINGS = (
    "edit",
    "cross_replace_steps",
    "self_replace_steps",
    "local_blend",
    "local_blend_threshold",
    "reweight",
)

ATTENTION_SETTINGS = (*_EDIT_SETTINGS, "heat_map")
"""Their names in the settings of an image."""


def _list(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str] | None:
    return list(values) or None


_edit = options_in("Prompt-to-Prompt")

_OPTIONS = (
    _edit(
        "--edit", type=click.Choice(EDIT_TYPES), also=("--edit-type", "--cross-attention-kwargs"),
        help="Keep the image of the first PROMPT and edit it by the others: replace words, refine with more words, or "
        "reweight words.",
    ),
    _edit(
        "--cross-replace-steps", multiple=True, callback=_list, metavar="[WORD:]STEPS", also=("--n-cross-replace",),
        help="Fraction of the steps with the first prompt's cross attention: 0.8, or 0.2..0.8. Repeat it for words."
        "  [default: 0.4; beside those of words 1]",
    ),
    _edit(
        "--self-replace-steps", metavar="STEPS", also=("--n-self-replace",),
        help="The same for self attention, which keeps the layout.  [default: 0.4]",
    ),
    _edit(
        "--local-blend", multiple=True, callback=_list, metavar="WORD,...", also=("--local-blend-words",),
        help="Change only the region of these words. Repeat it for words of each PROMPT.",
    ),
    _edit("--local-blend-threshold", type=float, help="Size of the region: 0 is everything.  [default: 0.3]"),
    _edit(
        "--reweight", multiple=True, callback=_list, metavar="WORD:FACTOR",
        also=("--equalizer-words", "--equalizer-strengths"),
        help="Multiply the attention of a word, also with --edit replace or refine. May be repeated.",
    ),
    options_in("Output")(
        "--heat-map", multiple=True, callback=_list, metavar="WORD", also=("--heat-map-words",),
        help="Save the attention of a word next to each image. May be repeated.",
    ),
)  # fmt: skip


def attention_options(command: Command) -> Command:
    """Add the options for Prompt-to-Prompt and heat maps."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_attention_settings(pipeline: PipelineBase, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Move the options out of the settings of an image.

    Returns:
        The arguments of the pipeline, and the options as an image keeps them.

    Raises:
        InputError: An option without --edit, one that cannot be read, or one of a system that takes no edits.
    """
    kept = {name: settings.pop(name) for name in ATTENTION_SETTINGS if settings.get(name) is not None}
    arguments: dict[str, Any] = {} if "heat_map" not in kept else {"heat_map_words": kept["heat_map"]}
    given = [name for name in _EDIT_SETTINGS if name in kept]
    if not given:
        return arguments, kept
    if "cross_attention_kwargs" not in pipeline.argument_names:
        raise InputError(
            f"--{given[0].replace('_', '-')}: got one with a {pipeline.session.bundle.pipeline_class}, expected none: "
            f"only Stable Diffusion 1.x and 2.x take edits of prompts; leave it out"
        )
    if "edit" not in kept and "reweight" not in kept:
        raise InputError(
            f"--{given[0].replace('_', '-')} needs --edit replace, refine or reweight, the kind of edit; pass both"
        )
    prompt = settings.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) else 1
    return {**arguments, "cross_attention_kwargs": _edit_arguments(kept, prompts)}, kept


def _edit_arguments(kept: Mapping[str, Any], prompts: int) -> dict[str, Any]:
    """Return `cross_attention_kwargs`."""
    edit: dict[str, Any] = {"edit_type": kept.get("edit", "reweight")}
    if "cross_replace_steps" in kept:
        edit["n_cross_replace"] = dict(_word_steps(text) for text in kept["cross_replace_steps"])
    if "self_replace_steps" in kept:
        edit["n_self_replace"] = _steps("--self-replace-steps", kept["self_replace_steps"])
    if "local_blend" in kept:
        words = [[word.strip() for word in text.split(",")] for text in kept["local_blend"]]
        edit["local_blend_words"] = words * prompts if len(words) == 1 else words
    if "local_blend_threshold" in kept:
        edit["local_blend_threshold"] = kept["local_blend_threshold"]
    pairs = [_factor(text) for text in kept.get("reweight", ())]
    return {
        **edit,
        "equalizer_words": [word for word, _ in pairs],
        "equalizer_strengths": [factor for _, factor in pairs],
    }


def _word_steps(text: str) -> tuple[str, tuple[float, float]]:
    word, colon, steps = text.rpartition(":")
    return word if colon else DEFAULT_WINDOW, _steps("--cross-replace-steps", steps)


def _steps(option: str, text: str) -> tuple[float, float]:
    """Read "0.8" or "0.2..0.8"."""
    start, dots, end = text.partition("..")
    try:
        return (float(start), float(end)) if dots else (0.0, float(text))
    except ValueError:
        raise InputError(
            f"{option}: got {text!r}, expected a fraction of the steps such as 0.8, or a range such as 0.2..0.8"
        ) from None


def _factor(text: str) -> tuple[str, float]:
    word, _, factor = text.rpartition(":")
    try:
        return word, float(factor)
    except ValueError:
        raise InputError(f"--reweight: got {text!r}, expected a word and a number, such as red:2") from None


def save_heat_maps(result: PipelineOutput[Any], paths: Sequence[Path], settings: Mapping[str, Any]) -> list[Path]:
    """Save the heat maps of a result next to its images: apple.png gets apple-heat-red.png.

    Args:
        result: The result.
        paths: Of its images.
        settings: That the files keep.
    """
    saved = []
    for word, maps in (result.heat_maps or {}).items():
        name = "".join(letter if letter.isalnum() else "_" for letter in word)
        for attention, image, path in zip(maps, result.images, paths, strict=True):
            saved.append(path.with_name(f"{path.stem}-heat-{name}{path.suffix}"))
            save_image(draw_heat_map(attention, image), saved[-1], {**settings, "heat_map_of": [path.name, word]})
    return saved

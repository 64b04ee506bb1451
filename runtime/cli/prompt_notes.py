"""Notes on prompts and sizes that do something else than their writer may think."""

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.chain import ChainedPipeline
from diffoundry.runtime.tokenizers.extended import ExtendedTokenizer

__all__ = ["prompt_notes", "size_note", "unused_words"]

_LARGE = 4
"""Times the pixels that a model was trained with: twice the width and twice the height."""

_PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "prompt_3", "negative_prompt_3")

_LORA = re.compile(r"<(?:lora|lyco|locon):([^:<>]+)(?::([^<>]*))?>", re.IGNORECASE)
_HYPERNET = re.compile(r"<hypernet:[^<>]*>", re.IGNORECASE)
_EMBEDDING = re.compile(r"(?<!\w)embedding:([\w.-]+)", re.IGNORECASE)
_WEIGHT = re.compile(r"\([^()]*:\s*-?\d*\.?\d+\s*\)")
_EDITING = re.compile(r"\[[^\[\]]*:[^\[\]]*:\s*\d*\.?\d+\s*\]")

_MODEL = "emoji"
_OTHER_WORDS = {"a", "an", "emoji", "of"}
"""Words of the captions that the demo model was trained with, besides its labels."""


def prompt_notes(pipeline: PipelineBase, settings: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every form of another program that is read as text here."""
    texts = list(_texts(settings))
    weighted = bool(settings.get("prompt_weighting"))
    notes = [note for text in texts for note in _syntax_notes(text)]
    weight = next((found[0] for text in texts if not weighted and (found := _WEIGHT.search(text))), None)
    if weight is not None:
        able = "prompt_weighting" in pipeline.argument_names
        advice = "pass --prompt-weighting to read it as a weight" if able else "this pipeline has no weights"
        notes.append(f"{weight!r} is read as text; {advice}")
    notes += _guidance_notes(pipeline, settings)
    manifest = pipeline.session.bundle.manifest
    if manifest is not None and manifest.recipe.model == _MODEL:
        notes += _demo_notes(settings.get("prompt"))
    return list(dict.fromkeys(notes))


def _guidance_notes(pipeline: Any, settings: Mapping[str, Any]) -> Iterable[str]:
    """Yield a note for each argument that a pipeline ignores, as diffusers' does."""
    asked = [settings.get(name) is not None for name in ("guidance_scale", "negative_prompt")]
    if any(asked) and getattr(getattr(pipeline, "family", None), "distilled", False):
        yield "--guidance-scale and --negative-prompt have no effect, because this checkpoint is distilled"
    if "true_cfg_scale" not in pipeline.argument_names:
        return
    owner: Any = pipeline.last if isinstance(pipeline, ChainedPipeline) else pipeline
    family = owner.family
    default = family.Inputs.__dataclass_fields__["true_cfg_scale"].default
    given, negative = settings.get("true_cfg_scale"), settings.get("negative_prompt") is not None
    if negative and not (default if given is None else given) > 1:
        yield "--negative-prompt has no effect without --true-cfg-scale above 1"
    if (given or 1) > 1 and not negative:
        yield "--true-cfg-scale has no effect without --negative-prompt, which may be empty"
    if settings.get("guidance_scale") is not None and not pipeline.denoiser.embeds_guidance:
        yield "--guidance-scale has no effect, because this transformer does not take it"


def size_note(pipeline: PipelineBase, height: int, width: int) -> str | None:
    """Return a sentence about a size far above the one that the model was trained with, or None."""
    if not pipeline.makes_images or pipeline.denoiser.sample_size is None:
        return None
    own_height, own_width = pipeline.default_size
    times = height * width / (own_height * own_width)
    if times <= _LARGE:
        return None
    return (
        f"this model was trained with {own_width} x {own_height} pixels; {width} x {height} are {times:.0f} times as "
        f"many, which takes at least as many times as long, and things may repeat in the image"
    )


def unused_words(pipeline: PipelineBase, settings: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """Return the words of loaded embeddings that no prompt contains."""
    tokenizers = [one.tokenizer for one in pipeline.text_encoders if isinstance(one.tokenizer, ExtendedTokenizer)]
    used = {word for text in _texts(settings) for tokenizer in tokenizers for word in tokenizer.words_in(text)}
    return [word for word in words if word not in used]


def _texts(settings: Mapping[str, Any]) -> Iterable[str]:
    """Yield every prompt and negative prompt."""
    for name in _PROMPTS:
        value = settings.get(name)
        yield from [value] if isinstance(value, str) else value or ()


def _syntax_notes(text: str) -> Iterable[str]:
    for found in _LORA.finditer(text):
        scale = f":{found[2]}" if found[2] else ""
        yield f"{found[0]!r} is read as text; load the file with --lora {found[1]}.safetensors{scale} instead"
    for found in _HYPERNET.finditer(text):
        yield f"{found[0]!r} is read as text; hypernetworks are not supported"
    for found in _EMBEDDING.finditer(text):
        name = found[1].removesuffix(".safetensors")
        file = f"{name}.safetensors:{name}"
        yield f"{found[0]!r} is read as text; load the file with --embedding {file} and write {name!r} instead"
    for found in _EDITING.finditer(text):
        yield f"{found[0]!r} is read as text; prompt editing is not supported"


def _demo_notes(prompts: Any) -> Iterable[str]:
    """Yield a note for prompts with words that the demo model has never seen."""
    file, labels = _demo_labels()
    known = {word for label in labels for word in _words(label)} | _OTHER_WORDS
    for prompt in [prompts] if isinstance(prompts, str) else prompts or ():
        unknown = [word for word in _words(re.sub(r"<[^<>]*>", " ", prompt)) if word not in known]
        if labels and unknown:
            listed = ", ".join(repr(word) for word in dict.fromkeys(unknown))
            yield (
                f"this demo model knows {len(labels)} labels, such as 'red apple', 'rocket' and 'cat face', and no "
                f"sentences; it does not know {listed}. The labels are in {file}"
            )


def _demo_labels() -> tuple[Path | None, list[str]]:
    """The labels of the demo model and their file, or nothing where its package is not installed."""
    package = importlib.util.find_spec("diffoundry_models")
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder) / _MODEL / "captions.json"
        if path.is_file():
            return path, [str(entry["label"]) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return None, []


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())

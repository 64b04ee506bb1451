"""Compares the bundle's files with the checkpoint's: checksums, scheduler options, configs, token ids, pixels."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import diffusers
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from diffoundry.exporter.component import Component
from diffoundry.exporter.reference.networks import network
from diffoundry.exporter.verify.report.report import Check, holds
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.images.dpt_image_processor import DPTImageProcessor
from diffoundry.runtime.images.feature_extractor import FeatureExtractor
from diffoundry.runtime.models.clip_vision import EXTRACTOR_FILE
from diffoundry.runtime.models.image_projection import is_ip_adapter
from diffoundry.runtime.models.roles import DEPTH_ESTIMATOR
from diffoundry.runtime.tokenizers.clip import ClipTokenizer

__all__ = ["check_configs", "check_extractor", "check_files", "check_scheduler", "check_tokenizer", "check_vocabulary"]

_TEXTS = (
    "",
    "A red apple on a table, 4k, trending!",
    "  naïve café, ２０２４ 🍎 苹果\tand\nnew lines  ",
    "don't stop: it's 100% <|endoftext|> fun",
    "very " * 90 + "long",
)
"""Extra texts: padding alone, punctuation, Unicode, special tokens, and a text that is truncated."""

_WORD_IDS = 16
"""Ids of a word of the vocabulary, start and end token and padding included."""

_LONGEST = 512
"""Most ids of a text: language models name 131,072, or no limit."""

_WRITTEN = frozenset(("_class_name", "_diffusers_version", "_name_or_path"))
"""Keys of a scheduler config that change no number; the class is compared first."""

_NOT_NUMERIC = frozenset(("architectures", "dtype", "torch_dtype", "transformers_version", "model_type"))
"""Keys of a transformers config that describe how and by whom weights were stored, not the computation."""


def check_files(bundle: Bundle) -> Check:
    """Read every file of the bundle and compare its SHA-256.

    Raises:
        BundleError: A file was changed since the export.
    """
    names = () if bundle.manifest is None else tuple(bundle.manifest.files)
    for name in names:
        bundle.file(name)
    return holds("bundle", f"{len(names)} files", "SHA-256 as in the manifest", None)


def check_scheduler(bundle: Bundle, folder: str, reference: Mapping[str, Any]) -> Check:
    """Compare the scheduler's class and every option. diffusers fills in the defaults on both sides.

    Options of other schedulers are compared as they are: they count once another scheduler is chosen.

    Args:
        bundle: The bundle.
        folder: The scheduler's folder.
        reference: The checkpoint's scheduler_config.json.
    """
    ours = bundle.read_object(f"{folder}/scheduler_config.json")
    classes = ours.get("_class_name"), reference.get("_class_name")
    if classes[0] != classes[1]:
        fault = f"_class_name: got {classes[0]!r}, expected {classes[1]!r}"
    else:
        kind = getattr(diffusers, str(classes[1]))
        pair = [{**_others(one), **_completed(kind, one)} for one in (ours, reference)]
        fault = "; ".join(_differences(*pair))
    return holds("config", f"scheduler {classes[1]}", "options", fault or None)


def check_configs(bundle: Bundle, components: Iterable[Component], pipeline: Any) -> Iterator[Check]:
    """Compare each component's config.json with that of its torch module, defaults filled in.

    Args:
        bundle: The bundle.
        components: The checkpoint's components; those that the bundle lacks are skipped.
        pipeline: diffusers' pipeline with the checkpoint's modules.
    """
    for component in components:
        if component.name not in bundle.components:
            continue
        module = network(pipeline, component.source)
        if is_ip_adapter(component.name):
            denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
            yield holds("config", component.name, "options", _projection_fault(bundle, component, module, denoiser))
            continue
        ours, reference = bundle.config(component.name), module.config
        if isinstance(module, diffusers.ModelMixin):
            pair = _completed(type(module), ours), _completed(type(module), reference)
        else:
            pair = type(reference).from_dict(dict(ours)).to_dict(), reference.to_dict()
        yield holds("config", component.name, "options", "; ".join(_differences(*pair)) or None)


def _projection_fault(bundle: Bundle, component: Component, module: Any, denoiser: Any) -> str | None:
    """Compare the config that an export writes for an IP-Adapter with its modules, which have none in diffusers."""
    attended = [name for name, one in denoiser.attn_processors.items() if hasattr(one, "to_k_ip")]
    layers = [re.sub(r"\.attn2?\.processor$", "", name) for name in attended]
    held = bundle.config(component.name)
    ours = {"class": held.get("_class_name"), "layers": held.get("layers")}
    return "; ".join(_differences(ours, {"class": type(module).__name__, "layers": layers})) or None


def check_tokenizer(
    name: str, tokenizer: ClipTokenizer, reference: Any, prompts: Sequence[str], padding_side: str | None = None
) -> Check:
    """Compare the ids of the prompts and of some unusual texts with transformers'.

    Args:
        name: The tokenizer's folder.
        tokenizer: The bundle's tokenizer.
        reference: transformers' tokenizer.
        prompts: Prompts to generate.
        padding_side: As the pipeline pads, whatever the files say; None for that of the files.
    """
    texts, side = [*prompts, *_TEXTS], {} if padding_side is None else {"padding_side": padding_side}
    length = min(reference.model_max_length, _LONGEST)
    expected = reference(texts, padding="max_length", max_length=length, truncation=True, **side)["input_ids"]
    ids = tokenizer(texts, max_length=length, **side).input_ids
    fault = None
    if ids.shape != np.shape(expected):
        fault = f"shape {ids.shape}, expected {np.shape(expected)}"
    else:
        places = np.argwhere(ids != np.asarray(expected))
        if len(places):
            row, column = places[0]
            fault = (
                f"{ids[row, column]} at place {column} of {texts[row][:30]!r}, expected {expected[row][column]} "
                f"({len(places)} of {ids.size} ids differ)"
            )
    return holds("tokenizer", f"{name}, {len(texts)} texts", "ids", fault)


def check_vocabulary(name: str, tokenizer: ClipTokenizer, reference: Any, padding_side: str | None = None) -> Check:
    """Compare the ids of every word of the vocabulary with transformers'.

    A merge that is lost or out of order changes a few words only, which no prompt of a verification may hold.

    Args:
        name: The tokenizer's folder.
        tokenizer: The bundle's tokenizer.
        reference: transformers' tokenizer.
        padding_side: As in `check_tokenizer`.
    """
    side = {} if padding_side is None else {"padding_side": padding_side}
    words = reference.batch_decode([[index] for index in range(len(reference))])
    expected = reference(
        words, padding="max_length", max_length=_WORD_IDS, truncation=True, return_tensors="np", **side
    ).input_ids
    ids = tokenizer(words, max_length=_WORD_IDS, **side).input_ids
    wrong = np.flatnonzero((ids != expected).any(axis=1))
    fault = None
    if len(wrong):
        first = wrong[0]
        fault = (
            f"{words[first]!r} gives {_some(ids[first], expected[first])}, expected "
            f"{_some(expected[first], ids[first])} ({len(wrong)} words differ)"
        )
    return holds("tokenizer", f"{name}, {len(words)} words", "ids", fault)


def _some(ids: NDArray[np.integer[Any]], others: NDArray[np.integer[Any]]) -> list[int]:
    """Cut a row of ids after the last that differs from another row."""
    return [int(index) for index in ids[: int(np.flatnonzero(ids != others)[-1]) + 1]]


def check_extractor(bundle: Bundle, reference: Any, images: Sequence[Image]) -> Iterator[Check]:
    """Compare image preprocessing for image encoders and safety checkers with transformers, bit for bit.

    Args:
        bundle: The bundle.
        reference: transformers' `CLIPImageProcessor`, or for a depth estimator `DPTImageProcessor`; None where no
            network reads images.
        images: At least one.
    """
    if reference is None or not bundle.has(EXTRACTOR_FILE):
        return
    subject, measure = f"feature_extractor, {len(images)} images", "pixels"
    kind = DPTImageProcessor if bundle.with_role(DEPTH_ESTIMATOR) else FeatureExtractor
    try:
        ours = [kind.from_config(bundle.read_json(EXTRACTOR_FILE))([image]) for image in images]
    except ConfigError as error:
        yield holds("config", subject, measure, str(error))
        return
    expected = [reference(image, return_tensors="np").pixel_values for image in images]
    wrong = [i for i, pair in enumerate(zip(ours, expected, strict=True)) if not np.array_equal(*pair)]
    fault = None
    if wrong:
        fault = f"other pixels of {len(wrong)} images, such as {images[wrong[0]].width} x {images[wrong[0]].height}"
    yield holds("config", subject, measure, fault)


def _completed(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a diffusers config with the defaults of its class."""
    parameters = inspect.signature(kind).parameters.values()
    defaults = {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}
    return {name: _plain(config.get(name, default)) for name, default in defaults.items()}


def _others(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a scheduler config but for those that say how it was written."""
    return {name.lstrip("_"): value for name, value in config.items() if name not in _WRITTEN}


def _plain(value: Any) -> Any:
    """Convert tuples to lists, as JSON has them."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _differences(ours: Mapping[str, Any], reference: Mapping[str, Any]) -> Iterable[str]:
    for name in sorted({*ours, *reference} - _NOT_NUMERIC):
        mine, other = ours.get(name), reference.get(name)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):  # a CLIP model's two halves
            yield from (f"{name}.{words}" for words in _differences(mine, other))
        elif not str(name).startswith("_") and mine != other:
            yield f"{name}: got {mine!r}, expected {other!r}"

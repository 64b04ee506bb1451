"""Images and captions: joins the two packages, and turns one emoji into an image and a sentence."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffoundry.runtime.errors import CheckpointError, DiffoundryError
from diffoundry_models.emoji.training.fetch import FLAT, IMAGES, LABELS, fetch

__all__ = [
    "SIZE",
    "TEMPLATES",
    "Emoji",
    "base_emoji",
    "draw_caption",
    "flat_emoji",
    "image",
    "images",
    "load_emoji",
    "read_labels",
    "select",
    "write_captions",
]

SIZE = 64
_INNER = 60  # a white frame of two pixels, so that a shift by one loses nothing

TEMPLATES = ("a {}", "{}", "an emoji of {}", "{} emoji")
_EMPTY = 0.10  # classifier-free guidance needs the empty caption: Ho and Salimans 2022, section 3.2
_TAGS = 0.15
_MOST_TAGS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Emoji:
    """One image with its labels.

    Attributes:
        label: in lower case, unique.
        tags: emojibase's search words.
        file: the image.
    """

    label: str
    tags: tuple[str, ...]
    file: Path


def load_emoji(folder: Path) -> list[Emoji]:
    """Load all base emoji; their packages are fetched to `folder` if missing."""
    return base_emoji(fetch(IMAGES, folder) / "assets", fetch(LABELS, folder) / "en" / "data.json")


def base_emoji(assets: Path, table: Path) -> list[Emoji]:
    """List the emoji of one code point that have an image, in the table's order.

    One code point: this leaves out flags of countries, skin tones, and people joined from parts. The images'
    names carry the variation selector FE0F where the table's code points often do not, so both are tried.

    Args:
        assets: folder of `<code point in lower case>.webp`.
        table: emojibase's `en/data.json`.

    Raises:
        DiffoundryError: the packages' files are not as expected.
    """
    if not assets.is_dir() or not table.is_file():
        raise DiffoundryError(f"The emoji data lacks {assets} or {table}. Remove the folder to fetch it again.")
    found = []
    for entry in json.loads(table.read_text(encoding="utf-8")):
        code = entry["hexcode"].lower().removesuffix("-fe0f")
        names = (f"{code}.webp", f"{code}-fe0f.webp")
        file = next((assets / name for name in names if (assets / name).is_file()), None)
        if file is not None and "-" not in code:
            found.append(Emoji(label=entry["label"].lower(), tags=tuple(entry.get("tags", ())), file=file))
    if not found:
        raise DiffoundryError(f"No label of {table} has an image in {assets}: the two do not fit together.")
    return found


def select(emoji: Iterable[Emoji], labels: Sequence[str]) -> list[Emoji]:
    """Select the emoji of these labels, in the labels' order.

    Raises:
        DiffoundryError: some labels have no image.
    """
    known = {one.label: one for one in emoji}
    missing = [label for label in labels if label not in known]
    if missing:
        raise DiffoundryError(
            f"{len(missing)} of {len(labels)} labels have no image, the first is '{missing[0]}'. "
            "Labels are emojibase's English ones in lower case."
        )
    return [known[label] for label in labels]


def flat_emoji(emoji: Iterable[Emoji], folder: Path) -> list[Emoji]:
    """Replace the images of the emoji by Google's flat ones, fetched to `folder` if missing.

    Raises:
        DiffoundryError: one has no flat image.
    """
    images = fetch(FLAT, folder) / "img" / "google" / "64"
    flat = []
    for one in emoji:
        code = one.file.stem.removesuffix("-fe0f")
        files = (images / f"{code}.png", images / f"{code}-fe0f.png")
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise DiffoundryError(f"'{one.label}' has no flat image in {images}. Remove the folder to fetch it again.")
        flat.append(dataclasses.replace(one, file=file))
    return flat


def read_labels(captions: Path) -> list[str]:
    """Read the labels of a `captions.json`, in order.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        labels = [entry["label"] for entry in json.loads(captions.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{captions} is not a list of objects with a 'label' ({type(error).__name__}: {error}). "
            "Name a checkpoint that train.py wrote."
        ) from error
    if not labels:
        raise CheckpointError(f"{captions} is not a list of objects with a 'label': it is empty. Train again.")
    return labels


def write_captions(emoji: Iterable[Emoji], captions: Path) -> None:
    """Write `captions.json`: entry i belongs to emoji i."""
    entries = [{"style": "3d", "label": one.label, "tags": list(one.tags)} for one in emoji]
    captions.write_text(json.dumps(entries), encoding="utf-8")


def image(file: Path, factor: int = 1) -> np.ndarray:
    """Read one image onto white, uint8 (3, 64, 64): 60 pixels wide (LANCZOS) in a white frame; all `factor` times."""
    size, inner = factor * SIZE, factor * _INNER
    canvas = Image.new("RGBA", (size, size), "white")
    corner = (size - inner) // 2
    with Image.open(file) as image:
        small = image.convert("RGBA").resize((inner, inner), Image.Resampling.LANCZOS)
    canvas.alpha_composite(small, (corner, corner))
    return np.asarray(canvas.convert("RGB")).transpose(2, 0, 1)


def images(emoji: Iterable[Emoji], factor: int = 1) -> torch.Tensor:
    """Read all images, float32 (N, 3, 64 * factor, 64 * factor), from -1 (black) to 1 (white)."""
    stack = torch.from_numpy(np.stack([image(one.file, factor) for one in emoji]))
    return stack.float() / 127.5 - 1.0


def draw_caption(one: Emoji, generator: torch.Generator) -> str:
    """Draw a random caption: none (10 %), one to three of its tags (15 % of the rest), or its label in a template."""
    kind, of_tags = torch.rand(2, generator=generator).tolist()
    if kind < _EMPTY:
        return ""
    if of_tags < _TAGS and one.tags:
        count = int(torch.randint(1, _MOST_TAGS + 1, (), generator=generator))
        order = torch.randperm(len(one.tags), generator=generator)[:count].tolist()
        return " ".join(one.tags[i] for i in order)
    template = int(torch.randint(len(TEMPLATES), (), generator=generator))
    return TEMPLATES[template].format(one.label)

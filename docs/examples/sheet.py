"""Writes contact sheets: enlarged images with captions, in rows or in a grid."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

_GAP, _LABEL, _FONT, _FRAME = 12, 30, 20, "#cccccc"


def write_grid(tiles: Mapping[str, Image.Image], path: str, *, columns: int, scale: int = 3) -> None:
    """Write images in reading order, each with its caption below."""
    side = scale * next(iter(tiles.values())).width
    rows = -(-len(tiles) // columns)
    sheet = _blank(columns * (side + _GAP) + _GAP, rows * (side + _LABEL + _GAP) + _GAP)
    for index, (caption, image) in enumerate(tiles.items()):
        left, top = _GAP + index % columns * (side + _GAP), _GAP + index // columns * (side + _LABEL + _GAP)
        _place(sheet, image, left, top, side)
        _write(sheet, caption, left, top + side, side)
    _save(sheet, path, len(tiles))


def write_rows(rows: Mapping[str, Sequence[Image.Image]], path: str, *, scale: int = 3) -> None:
    """Write one row of images for each caption, which is put above the row."""
    first = next(iter(rows.values()))
    side = scale * first[0].width
    sheet = _blank(len(first) * (side + _GAP) + _GAP, len(rows) * (side + _LABEL + _GAP) + _GAP)
    for down, (caption, images) in enumerate(rows.items()):
        top = _GAP + down * (side + _LABEL + _GAP)
        _write(sheet, caption, _GAP, top, sheet.width)
        for across, image in enumerate(images):
            _place(sheet, image, _GAP + across * (side + _GAP), top + _LABEL, side)
    _save(sheet, path, sum(map(len, rows.values())))


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


def _place(sheet: Image.Image, image: Image.Image, left: int, top: int, side: int) -> None:
    """Paste an image, smoothly enlarged, with a thin frame: white images would look broken on a white page."""
    sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    ImageDraw.Draw(sheet).rectangle((left - 1, top - 1, left + side, top + side), outline=_FRAME)


def _write(sheet: Image.Image, caption: str, left: int, top: int, width: int) -> None:
    """Write a caption, smaller where it would be wider than its image."""
    draw = ImageDraw.Draw(sheet)
    size = _FONT * min(1.0, (width - 4) / draw.textlength(caption, font_size=_FONT))
    draw.text((left + 2, top + 3), caption, fill="black", font_size=size)


def _save(sheet: Image.Image, path: str, count: int) -> None:
    sheet.save(path, optimize=True)
    print(f"{path}: {count} images")

"""The same noise on every engine of a bundle that can run here, diffusers first: a contact sheet.

python docs/examples/engines_sheet.py BUNDLE FILE.png
"""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffoundry.exporter.verify import VerifyRequest, Watch, verify_across
from diffoundry.exporter.verify.prompts import PROMPTS

PICTURES, SCALE, LABEL = 8, 2, 14


class _Pictures(Watch):
    """Keeps what every painter made."""

    def __init__(self) -> None:
        self.sets: dict[str, Sequence[NDArray[np.float32]]] = {}

    def painted(self, name: str, pictures: Sequence[NDArray[np.float32]]) -> None:
        self.sets[name] = pictures


def main(bundle: str, path: str) -> None:
    """One row a painter, under each its worst PSNR to diffusers."""
    watch = _Pictures()
    report = verify_across(bundle, None, VerifyRequest(prompts=PROMPTS[:PICTURES]), watch)
    height, width = (SCALE * size for size in watch.sets[report.painters[0].name][0].shape[:2])
    sheet = Image.new("RGB", (PICTURES * width, len(report.painters) * (height + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, painter in enumerate(report.painters):
        top = row * (height + LABEL)
        for column, pixels in enumerate(watch.sets[painter.name]):
            picture = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
            sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (column * width, top))
        distance = report.between(report.painters[0].name, painter.name)
        words = f": {distance.psnr:.1f} dB and more to diffusers" if distance else ""
        draw.text((4, top + height), painter.name + words, fill="black", font_size=10)
    sheet.save(path, optimize=True)
    print(f"{path}: {len(report.painters)} painters")


if __name__ == "__main__":
    main(*sys.argv[1:])

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

IMAGES, SCALE, LABEL = 8, 2, 14


class _Images(Watch):
    """Keeps what every participant made."""

    def __init__(self) -> None:
        self.sets: dict[str, Sequence[NDArray[np.float32]]] = {}

    def generated(self, name: str, images: Sequence[NDArray[np.float32]]) -> None:
        self.sets[name] = images


def main(bundle: str, path: str) -> None:
    """One row a participant, under each its worst PSNR to diffusers."""
    watch = _Images()
    report = verify_across(bundle, None, VerifyRequest(prompts=PROMPTS[:IMAGES]), watch)
    height, width = (SCALE * size for size in watch.sets[report.participants[0].name][0].shape[:2])
    sheet = Image.new("RGB", (IMAGES * width, len(report.participants) * (height + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, participant in enumerate(report.participants):
        top = row * (height + LABEL)
        for column, pixels in enumerate(watch.sets[participant.name]):
            image = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
            sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (column * width, top))
        distance = report.between(report.participants[0].name, participant.name)
        words = f": {distance.psnr:.1f} dB and more to diffusers" if distance else ""
        draw.text((4, top + height), participant.name + words, fill="black", font_size=10)
    sheet.save(path, optimize=True)
    print(f"{path}: {len(report.participants)} participants")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Writes a contact sheet of every variant of a bundle that can run here, diffusers first, from the same noise.

python docs/examples/engines_sheet.py BUNDLE FILE.png
"""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sheet import write_rows

from diffoundry.exporter.verify import VerifyProgress, VerifyRequest, compare_engines
from diffoundry.exporter.verify.prompts import PROMPTS

IMAGES, SCALE = 8, 2


class _Images(VerifyProgress):
    """Keeps the images of every variant."""

    def __init__(self) -> None:
        self.sets: dict[str, Sequence[NDArray[np.float32]]] = {}

    def generated(self, name: str, images: Sequence[NDArray[np.float32]]) -> None:
        self.sets[name] = images


def main(bundle: str, path: str) -> None:
    """Write one row for each variant, with its worst PSNR to diffusers."""
    progress = _Images()
    report = compare_engines(bundle, None, VerifyRequest(prompts=PROMPTS[:IMAGES]), progress)
    rows = {}
    for participant in report.participants:
        distance = report.between(report.participants[0].name, participant.name)
        words = f": at least {distance.psnr:.1f} dB to diffusers" if distance else ""
        images = [
            Image.fromarray(np.round(pixels * 255).astype(np.uint8)) for pixels in progress.sets[participant.name]
        ]
        rows[participant.name + words] = images
    write_rows(rows, path, scale=SCALE)


if __name__ == "__main__":
    main(*sys.argv[1:])

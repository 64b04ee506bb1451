"""Make the control image of the ControlNet: white edges on black.

python models/emoji-edges/edges.py IMAGE EDGES.png
"""

import sys

from PIL import Image

from diffoundry.runtime.images.read import read_image_file
from diffoundry_models.emoji.training.edges import edge_image


def main(source: str, path: str) -> None:
    """Read an image, put it on white, and write its edges in the same size."""
    image = read_image_file(source, "image")
    shown = Image.new("RGBA", image.size, "white")
    shown.alpha_composite(image.convert("RGBA"))
    edge_image(shown).save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])

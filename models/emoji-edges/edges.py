"""Make the picture that the ControlNet is shown: white edges on black.

python models/emoji-edges/edges.py PICTURE EDGES.png
"""

import sys

from PIL import Image

from diffoundry.models.emoji.training.edges import edge_picture


def main(picture: str, path: str) -> None:
    """Read a picture, transparency on white, and write its edges in the same size."""
    with Image.open(picture) as image:
        shown = Image.new("RGBA", image.size, "white")
        shown.alpha_composite(image.convert("RGBA"))
    edge_picture(shown).save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])

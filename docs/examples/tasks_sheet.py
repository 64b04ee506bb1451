"""Image to image and inpainting of one image: the figure of docs/how-to/start-from-an-image.md.

python docs/examples/tasks_sheet.py BUNDLE FILE.png
"""

import sys

from PIL import Image
from sheet import write_grid

from diffoundry.runtime import load

SETTINGS = {"num_inference_steps": 30, "guidance_scale": 5.0, "seed": 3}


def main(bundle: str, path: str) -> None:
    """Generate an apple, change it a little and a lot, and regenerate a part of it."""
    pipe = load(bundle)
    apple = pipe("red apple", **SETTINGS).images[0]
    mask = Image.new("L", apple.size)
    mask.paste(255, (0, 0, apple.width, apple.height // 2))
    tiles = {
        "red apple": apple,
        "green apple, 0.5": pipe("green apple", image=apple, strength=0.5, **SETTINGS).images[0],
        "tomato, 0.8": pipe("tomato", image=apple, strength=0.8, **SETTINGS).images[0],
        "mask": mask.convert("RGB"),
        "cat face": pipe("cat face", image=apple, mask_image=mask, **SETTINGS).images[0],
    }
    write_grid(tiles, path, columns=len(tiles))


if __name__ == "__main__":
    main(*sys.argv[1:])

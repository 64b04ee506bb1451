"""One image and what the tasks make of it: the images of docs/pipelines.md.

python docs/examples/tasks_sheet.py BUNDLE FILE.png
"""

import sys

from PIL import Image, ImageDraw

from diffoundry.runtime import load

SETTINGS = {"num_inference_steps": 30, "guidance_scale": 5.0, "seed": 3}
SCALE, LABEL = 3, 16


def main(bundle: str, path: str) -> None:
    """Generate an apple, change it a little and a lot, and generate a part of it anew."""
    pipe = load(bundle)
    apple = pipe("red apple", **SETTINGS).images[0]
    mask = Image.new("L", apple.size)
    mask.paste(255, (0, 0, apple.width, apple.height // 2))
    images = {
        "red apple": apple,
        "green apple, 0.5": pipe("green apple", image=apple, strength=0.5, **SETTINGS).images[0],
        "tomato, 0.8": pipe("tomato", image=apple, strength=0.8, **SETTINGS).images[0],
        "mask": mask.convert("RGB"),
        "pumpkin in the mask": pipe("jack-o-lantern", image=apple, mask_image=mask, **SETTINGS).images[0],
    }
    width, height = (SCALE * side for side in apple.size)
    sheet = Image.new("RGB", (len(images) * width, height + LABEL), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (name, image) in enumerate(images.items()):
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (index * width, 0))
        draw.text((index * width + 4, height + 1), name, fill="black", font_size=11)
    sheet.save(path)
    print(f"{path}: {len(images)} images")


if __name__ == "__main__":
    main(*sys.argv[1:])

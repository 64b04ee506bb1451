"""One prompt, one seed, every scheduler: a contact sheet.

python docs/examples/scheduler_sheet.py BUNDLE FILE.png [PROMPT]
"""

import sys

from PIL import Image, ImageDraw

from diffoundry.runtime import load
from diffoundry.runtime.errors import DiffoundryError
from diffoundry.runtime.schedulers import scheduler_names

STEPS, GUIDANCE, SEED, COLUMNS, SCALE, LABEL = 20, 4.0, 0, 6, 2, 14


def main(bundle: str, path: str, prompt: str = "a rocket") -> None:
    """Paint PROMPT with every scheduler that can take over the bundle's config, and name those that cannot."""
    pipe = load(bundle)
    pictures = {}
    for full_name in scheduler_names():
        name = full_name.removesuffix("Scheduler")
        try:
            result = pipe(prompt, scheduler=name, num_inference_steps=STEPS, guidance_scale=GUIDANCE, seed=SEED)
        except (DiffoundryError, TypeError) as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        pictures[name] = result.images[0]
    width, height = (SCALE * size for size in next(iter(pictures.values())).size)
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * (height + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (name, picture) in enumerate(pictures.items()):
        left, top = index % COLUMNS * width, index // COLUMNS * (height + LABEL)
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.text((left + 4, top + height), name, fill="black", font_size=9)
    sheet.save(path)
    print(f"{path}: {len(pictures)} schedulers")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One prompt, one seed, every scheduler: a contact sheet.

python docs/examples/scheduler_sheet.py BUNDLE FILE.png [PROMPT]
"""

import sys

from PIL import Image, ImageDraw

from diffoundry.runtime import load

# Those of diffusers that sample forwards in time from a model with betas.
SCHEDULERS = (
    *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE"),
    *("DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete"),
    *("KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep"),
)
STEPS, GUIDANCE, SEED, COLUMNS, SCALE, LABEL = 20, 4.0, 0, 7, 2, 14


def main(bundle: str, path: str, prompt: str = "a rocket") -> None:
    """Generate PROMPT with every scheduler in turn."""
    pipe = load(bundle)
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}
    images = {name: pipe(prompt, scheduler=name, **settings).images[0] for name in SCHEDULERS}
    width, height = (SCALE * size for size in next(iter(images.values())).size)
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * (height + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (name, image) in enumerate(images.items()):
        left, top = index % COLUMNS * width, index // COLUMNS * (height + LABEL)
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.text((left + 4, top + height), name, fill="black", font_size=9)
    sheet.save(path)
    print(f"{path}: {len(images)} schedulers")


if __name__ == "__main__":
    main(*sys.argv[1:])

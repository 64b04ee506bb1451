"""Generates a grid of images with the runtime alone, as an application without PyTorch does.

python docs/examples/generate_grid.py BUNDLE FOLDER
"""

import sys
import time
from pathlib import Path

from sheet import write_grid

from diffoundry.runtime import load
from diffoundry.runtime.images.save import save_image

PROMPTS = (
    *("a red apple", "a rocket", "a castle", "a guitar", "a panda", "a sunflower", "a pizza", "a rainbow"),
    *("a cat face", "a ghost", "a strawberry", "a sailboat", "an octopus", "a birthday cake", "a robot", "a cactus"),
)
STEPS, GUIDANCE, SEED, COLUMNS = 25, 4.0, 0, 8


def main(bundle: str, folder: str) -> None:
    """Generate every prompt into FOLDER, and all of them as one grid."""
    pipe = load(bundle)
    images = []
    started = time.perf_counter()
    for number, prompt in enumerate(PROMPTS, 1):
        settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}
        image = pipe(prompt, **settings).images[0]
        save_image(image, Path(folder) / f"{prompt.replace(' ', '-')}.png", {"prompt": prompt, **settings})
        images.append(image)
        print(f"\rgenerated {number}/{len(PROMPTS)} in {time.perf_counter() - started:.1f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    write_grid(dict(zip(PROMPTS, images, strict=True)), str(Path(folder) / "grid.png"), columns=COLUMNS)
    loaded = sorted({"torch", "diffusers", "transformers", "onnx"} & set(sys.modules))
    if loaded:
        sys.exit(f"this process loaded {', '.join(loaded)}: the runtime must not")
    print("PyTorch was never imported")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Steps of a DDPM from noise to an image: the figure of models/emoji-pixels/README.md.

python docs/examples/denoising_sheet.py BUNDLE FILE.png

BUNDLE: diffoundry export --model emoji-pixels --target onnxruntime -o BUNDLE
"""

import sys

from sheet import write_rows

from diffoundry.runtime import load

SEEDS = (0, 1)
STEPS = 100
SHOWN = (0, 39, 59, 74, 84, 91, 96, 99)  # the last steps change most of what can be seen


def main(bundle: str, path: str) -> None:
    """Generate one image for each seed, and show it after some of the steps."""
    pipe = load(bundle)
    rows = {}
    for seed in SEEDS:
        run = pipe.start(num_inference_steps=STEPS, seed=seed)
        rows[f"seed {seed}"] = [run.preview()[0] for step in run if step.index in SHOWN]
    write_rows(rows, path, scale=3)


if __name__ == "__main__":
    main(*sys.argv[1:])

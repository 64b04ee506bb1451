"""Emoji at 64 pixels, enlarged by Lanczos, and upscaled to 256: the figure of models/emoji-x4/README.md.

python docs/examples/upscale_sheet.py BUNDLE UPSCALER FILE.png

BUNDLE: diffoundry export --model emoji --target onnxruntime -o BUNDLE
UPSCALER: diffoundry export --model emoji-x4 --target onnxruntime -o UPSCALER
"""

import sys

from PIL import Image
from sheet import write_rows

from diffoundry.runtime import load

PROMPTS = ("a red apple", "a sailboat", "a lion", "an owl", "a taco")
SETTINGS = {"num_inference_steps": 30, "guidance_scale": 4.0, "seed": 0}
UPSCALING = {"num_inference_steps": 8, "guidance_scale": 1.0, "noise_level": 20, "seed": 0}


def main(bundle: str, upscaler: str, path: str) -> None:
    """Generate each prompt at 64 pixels, and upscale it."""
    pipe, larger = load(bundle), load(upscaler)
    small = [pipe(prompt, **SETTINGS).images[0] for prompt in PROMPTS]
    rows = {
        "64 x 64 pixels, enlarged by Lanczos": [_enlarge(image) for image in small],
        "256 x 256 pixels, by emoji-x4": [
            larger(prompt, image=image, **UPSCALING).images[0] for prompt, image in zip(PROMPTS, small, strict=True)
        ],
    }
    write_rows(rows, path, scale=1)


def _enlarge(image: Image.Image) -> Image.Image:
    return image.resize((4 * image.width, 4 * image.height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(*sys.argv[1:])

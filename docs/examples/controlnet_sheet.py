"""Prompts without and with the ControlNet for edges: the figure of docs/how-to/guide-with-controlnet.md.

python docs/examples/controlnet_sheet.py BUNDLE FILE.png

BUNDLE: diffoundry export --model emoji --controlnet emoji-edges --target onnxruntime -o BUNDLE
"""

import sys

from PIL import Image
from sheet import write_rows

from diffoundry.runtime import load
from diffoundry_models.emoji.training.edges import edge_image

PROMPTS = ("a red apple", "an umbrella", "a sailboat", "a balloon", "a whale", "a t-shirt")
SETTINGS = {"num_inference_steps": 30, "guidance_scale": 2.0, "seed": 0}


def main(bundle: str, path: str) -> None:
    """Generate each prompt, turn and move what came out, and generate along the edges of that."""
    pipe = load(bundle)
    rows = {"without a ControlNet": [pipe(prompt, **SETTINGS).images[0] for prompt in PROMPTS]}
    rows["edges"] = [edge_image(_moved(image, number)) for number, image in enumerate(rows["without a ControlNet"])]
    for scale in (0.5, 1.0):
        rows[f"scale {scale}"] = [
            pipe(prompt, control_image=edges, controlnet_conditioning_scale=scale, **SETTINGS).images[0]
            for prompt, edges in zip(PROMPTS, rows["edges"], strict=True)
        ]
    write_rows(rows, path, scale=2)


def _moved(image: Image.Image, number: int) -> Image.Image:
    """Mirrored, turned by 20 degrees one way or the other, three quarters as large, off the middle."""
    side = image.width
    small = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((side * 3 // 4, side * 3 // 4))
    sheet = Image.new("RGB", image.size, "white")
    sheet.paste(small, (2 if number % 2 else side // 5, side // 6))
    angle = 20 if number % 2 else -20
    return sheet.rotate(angle, Image.Resampling.BICUBIC, fillcolor="white")


if __name__ == "__main__":
    main(*sys.argv[1:])

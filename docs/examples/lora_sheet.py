"""Prompts without and with the LoRA for flat emoji: the figure of docs/how-to/use-loras.md.

python docs/examples/lora_sheet.py BUNDLE FILE.png
"""

import sys
from pathlib import Path

from sheet import write_rows

from diffoundry.runtime import load

LORA = Path(__file__).parents[2] / "models/emoji-flat/pytorch_lora_weights.safetensors"
PROMPTS = ("a sailboat", "a tent", "a watch", "a dog face", "a backpack", "a rocket")
SCALES = (1.0, 0.4)
SETTINGS = {"num_inference_steps": 30, "guidance_scale": 4.0, "seed": 0}


def main(bundle: str, path: str) -> None:
    """Generate one row for each scale and one column for each prompt."""
    pipe = load(bundle)
    rows = {"without the LoRA": [pipe(prompt, **SETTINGS).images[0] for prompt in PROMPTS]}
    pipe.loras.load(LORA)
    for scale in SCALES:
        pipe.loras.set_scale(scale)
        rows[f"scale {scale}"] = [pipe(prompt, **SETTINGS).images[0] for prompt in PROMPTS]
    write_rows(rows, path, scale=2)


if __name__ == "__main__":
    main(*sys.argv[1:])

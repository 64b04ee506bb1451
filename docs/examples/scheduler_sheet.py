"""Writes a contact sheet of one prompt and one seed with every scheduler.

python docs/examples/scheduler_sheet.py BUNDLE FILE.png [PROMPT]
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from sheet import write_grid

from diffoundry.runtime import load

# Those of diffusers that sample forwards in time from a model with betas.
SCHEDULERS = (
    *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE"),
    *("DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete"),
    *("KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep"),
)
MODEL = Path(__file__).parents[2] / "models/emoji"
OPTIONS = {"skip_prk_steps": True}  # PNDM as Stable Diffusion uses it
# Those that do not suit this model: the images of diffusers are beside, as a proof.
UNSUITABLE = {"KDPM2AncestralDiscrete": "KDPM2Ancestral", "PNDM": "PNDM"}
STEPS, GUIDANCE, SEED, COLUMNS, SCALE = 20, 4.0, 0, 5, 3


def main(bundle: str, path: str, prompt: str = "a rocket") -> None:
    """Generate PROMPT with every scheduler in turn."""
    pipe = load(bundle)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **OPTIONS)
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}
    images = {}
    for name in SCHEDULERS:
        images[name] = pipe(prompt, scheduler=name, **settings).images[0]
        if name in UNSUITABLE:
            images[f"{UNSUITABLE[name]} in diffusers"] = _diffusers_image(name, prompt, pipe.scheduler.config)
    write_grid(images, path, columns=COLUMNS, scale=SCALE)


def _diffusers_image(name: str, prompt: str, config: Mapping[str, Any]) -> Image.Image:
    """Generate the same image with diffusers, from the checkpoint of the embedded model."""
    import diffusers
    import torch

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32, safety_checker=None)
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(dict(config))
    generator = torch.Generator().manual_seed(SEED)
    image: Image.Image = pipe(prompt, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator).images[0]
    return image


if __name__ == "__main__":
    main(*sys.argv[1:])

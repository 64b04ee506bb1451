"""Writes a contact sheet of one prompt and one seed with every scheduler.

python docs/examples/scheduler_sheet.py BUNDLE FILE.png [PROMPT]
"""

import sys

from sheet import write_grid

from diffoundry.runtime import load

# Those of diffusers that sample forwards in time from a model with betas.
SCHEDULERS = (
    *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE"),
    *("DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete"),
    *("KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep"),
)
OPTIONS = {"skip_prk_steps": True}  # PNDM as Stable Diffusion uses it
STEPS, GUIDANCE, SEED, COLUMNS, SCALE = 20, 4.0, 0, 5, 3


def main(bundle: str, path: str, prompt: str = "a rocket") -> None:
    """Generate PROMPT with every scheduler in turn."""
    pipe = load(bundle)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **OPTIONS)
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}
    images = {name: pipe(prompt, scheduler=name, **settings).images[0] for name in SCHEDULERS}
    write_grid(images, path, columns=COLUMNS, scale=SCALE)


if __name__ == "__main__":
    main(*sys.argv[1:])

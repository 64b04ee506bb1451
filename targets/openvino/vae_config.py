"""Says in a VAE's config what diffusers assumes where it is silent: OpenVINO GenAI would assume something else."""

import json
from pathlib import Path

from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.models.autoencoder_kl import SCALING_FACTOR

__all__ = ["fill_in"]


def fill_in(config: Path) -> None:
    """Write the scaling factor of latents into a config.json that has none, as those of the first checkpoints.

    diffusers: the default of `AutoencoderKL`'s `scaling_factor`; OpenVINO GenAI 2026.4 takes 1.
    """
    fields = json.loads(config.read_text(encoding="utf-8"))
    if "scaling_factor" in fields or fields.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        return
    write_text(config, json.dumps({**fields, "scaling_factor": SCALING_FACTOR}, indent=2) + "\n")

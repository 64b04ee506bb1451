"""Steps and guidance of systems with several stages, such as unCLIP."""

import click

from diffoundry.runtime.cli.help import options_in
from diffoundry.runtime.cli.systems.group import OptionGroup

__all__ = ["STAGES"]

_stages = options_in("Stages")

STAGES = OptionGroup(
    options=(
        _stages(
            "--prior-steps",
            "prior_num_inference_steps",
            also=("--prior-num-inference-steps",),
            type=click.INT,
            help="Steps of the prior, which makes an image embedding of the prompt.  [default: 25]",
        ),
        _stages(
            "--prior-guidance-scale",
            type=click.FLOAT,
            help="Guidance of the prior. 1 or less turns it off.  [default: 4]",
        ),
        _stages(
            "--decoder-steps",
            "decoder_num_inference_steps",
            also=("--decoder-num-inference-steps",),
            type=click.INT,
            help="Steps of the decoder, which makes a small image of the embedding.  [default: 25]",
        ),
        _stages(
            "--decoder-guidance-scale",
            type=click.FLOAT,
            help="Guidance of the decoder. 1 or less turns it off.  [default: 8]",
        ),
        _stages(
            "--super-res-steps",
            "super_res_num_inference_steps",
            also=("--super-res-num-inference-steps",),
            type=click.INT,
            help="Steps of the super-resolution, which enlarges the small image.  [default: 7]",
        ),
    ),
    settings=(
        "prior_num_inference_steps",
        "prior_guidance_scale",
        "decoder_num_inference_steps",
        "decoder_guidance_scale",
        "super_res_num_inference_steps",
    ),
)

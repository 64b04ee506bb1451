"""Errors about stages in commands that have one option for all stages."""

import click
import pytest
from click.testing import CliRunner

from diffoundry.runtime.cli.options import named_as_typed
from diffoundry.runtime.errors import InputError

ERRORS = {
    "UnCLIPScheduler.set_timesteps: decoder_num_inference_steps is 20, expected at most 5": (
        "UnCLIPScheduler.set_timesteps: --steps is 20, expected at most 5"
    ),
    "prior_guidance_scale: got -1": "--prior-guidance-scale: got -1",
    "super_res_guidance_scale: got -1": "super_res_guidance_scale: got -1",
}


@click.command()
@click.option("--steps", "num_inference_steps", type=int)
@click.option("--prior-guidance-scale", type=float)
@click.argument("message")
@named_as_typed()
def command(message, **_options) -> None:
    raise InputError(message)


def test_a_stage_without_an_option_of_its_own_is_named_by_the_one_for_all():
    for message, words in ERRORS.items():
        error = CliRunner().invoke(command, [message]).exception
        assert str(error) == words, message
        with pytest.raises(InputError):
            raise error

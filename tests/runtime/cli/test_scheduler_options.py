"""--scheduler and --scheduler-option of `generate`: the library's image, what an image keeps, and refusals."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.images.save import read_settings
from diffoundry.runtime.schedulers import DPMSolverMultistepScheduler, EulerDiscreteScheduler


@pytest.fixture
def generate(emoji_bundle, tmp_path):
    def run(name, *options):
        words = [str(emoji_bundle), "-o", str(tmp_path / name), *options]
        return CliRunner().invoke(command, words), tmp_path / name

    return run


ASKED = ("a fox", "--steps", "2", "--seed", "0")


def test_options_reach_the_scheduler(generate, emoji_bundle):
    """The same classes, made from the checkpoint's config with the options of diffusers' tables, in the library."""
    karras = {"use_karras_sigmas": True}
    cases = (
        (("--scheduler", "dpm++ 2m karras"), DPMSolverMultistepScheduler, karras),
        (
            ("--scheduler", "dpmpp_2m", "--scheduler-option", "use_karras_sigmas=True"),
            DPMSolverMultistepScheduler,
            karras,
        ),
        (
            ("--scheduler", "EULERDISCRETE", "--scheduler-option", "timestep-spacing=trailing"),
            EulerDiscreteScheduler,
            {"timestep_spacing": "trailing"},
        ),
    )
    pipe = load(emoji_bundle)
    config = pipe.scheduler_config
    for options, cls, changed in cases:
        result, path = generate("x.png", *ASKED, *options)
        assert result.exit_code == 0, result.output
        pipe.scheduler_config = cls.from_config(config, **changed).to_config()
        expected = pipe("a fox", num_inference_steps=2, seed=0).images[0]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(expected))
        settings = read_settings(path)
        assert settings["scheduler"] == cls.__name__.removesuffix("Scheduler")
        assert settings["scheduler_options"] == changed
    again = generate("again.png", "--like", str(path))[1]
    assert again.read_bytes() == path.read_bytes()
    other = generate("other.png", "--like", str(path), "--scheduler", "ddim")[1]
    assert "scheduler_options" not in read_settings(other)
    default = generate("default.png", *ASKED)[1]
    assert generate("again.png", "--like", str(default))[1].read_bytes() == default.read_bytes()


def test_what_is_refused(generate):
    for options, message in (
        (
            ["use_karras_sigma=true"],
            "--scheduler-option use_karras_sigma: EulerDiscreteScheduler has no such option. Did",
        ),
        (["lower_order_final=true"], "--scheduler-option lower_order_final: EulerDiscreteScheduler has no such option"),
        (
            ["use_karras_sigmas=maybe"],
            "--scheduler-option: EulerDiscreteScheduler: option 'use_karras_sigmas' is 'maybe'",
        ),
        (["beta_start=0.1", "beta_start=0.2"], "--scheduler-option beta_start: got it twice, expected one value"),
        (["beta_start=NaN"], "--scheduler-option: EulerDiscreteScheduler: option 'beta_start' is 'NaN', expected"),
        (["karras"], "--scheduler-option: got 'karras', expected NAME=VALUE such as use_karras_sigmas=true"),
        (["=1"], "--scheduler-option: got '=1', expected NAME=VALUE"),
        (["num_train_timesteps=[[[1"], "--scheduler-option: EulerDiscreteScheduler: option 'num_train_timesteps' is"),
    ):
        words = [word for option in options for word in ("--scheduler-option", option)]
        assert message in str(generate("x.png", *ASKED, "--scheduler", "euler", *words)[0].exception)
    named = ("--scheduler", "euler_karras", "--scheduler-option", "use_karras_sigmas=false")
    assert str(generate("x.png", *ASKED, *named)[0].exception) == (
        "--scheduler-option use_karras_sigmas: got False, but --scheduler euler_karras means True"
    )
    assert "--scheduler: got 'eulr'. Did you mean 'euler'?" in str(
        generate("x.png", *ASKED, "--scheduler", "eulr")[0].exception
    )

"""Values that commands refuse before any work, named as typed."""

import pytest
from click.testing import CliRunner

from diffoundry.runtime.cli.group import group

COMMANDS = {
    "bench": ["x.bundle"],
    "export": ["emoji", "--random-weights", "--target", "onnxruntime", "-o", "y.bundle"],
    "verify": ["x.bundle"],
    "compare": ["x.bundle"],
    "tune": ["x.bundle", "--min-psnr", "40"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_beyond_64_bits(name, seed):
    result = CliRunner().invoke(group, [name, *COMMANDS[name], "--seed", str(seed)])
    assert result.exit_code == 2
    assert f"'--seed': {seed} does not fit 64 bits, expected a whole number from -2**63 to 2**64 - 1" in result.output


def test_an_interval_that_is_reversed_names_the_option():
    result = CliRunner().invoke(group, ["generate", "x.bundle", "a", "--guidance-interval", "1:0"])
    assert str(result.exception).startswith("--guidance-interval: got '1:0', expected two fractions of the steps")

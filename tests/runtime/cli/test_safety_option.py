"""`generate` reports the images that the safety checker flags; both commands can leave the checker out."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.exporter.cli.export import command as export
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.generate import command as generate_command

ASKED = ("a cat", "--steps", "2", "--seed", "1")
"""Images that diffusers flags."""


@pytest.fixture
def run_generate(wide_bundle, tmp_path):
    def run(*options):
        path = tmp_path / "out.png"
        result = CliRunner().invoke(generate_command, [str(wide_bundle("sd1-checked")), "-o", str(path), *options])
        assert result.exit_code == 0, result.output
        return np.asarray(Image.open(path)), result

    return run


def test_a_flagged_image_is_black_and_told(run_generate):
    pixels, result = run_generate(*ASKED)
    assert not pixels.any()
    assert "the safety checker flagged this image, so it is black; try another prompt or seed" in " ".join(
        result.stderr.split()
    )
    assert "one colour" not in result.stderr


def test_without_it(run_generate):
    pixels, result = run_generate(*ASKED, "--no-safety-checker")
    assert pixels.any()
    assert "safety" not in result.stderr


def test_json_has_the_flags(run_generate):
    assert json.loads(run_generate(*ASKED, "--json")[1].stdout)["nsfw_content_detected"] == [True]
    assert json.loads(run_generate("a cat", "--steps", "2", "--seed", "0", "--json")[1].stdout)[
        "nsfw_content_detected"
    ] == [False]
    off = json.loads(run_generate(*ASKED, "--no-safety-checker", "--json")[1].stdout)
    assert off["nsfw_content_detected"] is None


@pytest.mark.slow
def test_export_without_it(tiny_sd_checkpoint, tmp_path, work_here, monkeypatch):
    monkeypatch.setattr("diffoundry.exporter.jobs.processes.JobProcesses.__call__", lambda _self, *job: work_here(*job))
    folder, output = tiny_sd_checkpoint("sd1-checked"), tmp_path / "b"
    options = ["--model", str(folder), "--target", "onnxruntime", "--no-safety-checker", "-o", str(output)]
    result = CliRunner().invoke(export, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "left out" not in result.output
    bundle = Bundle(output)
    assert "safety_checker" not in bundle.components
    assert bundle.manifest.recipe.without == ("safety_checker",)
    assert bundle.model_index["safety_checker"] == [None, None]

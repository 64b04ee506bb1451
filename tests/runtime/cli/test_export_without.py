"""`export --without`, and random weights that do not fit into memory."""

import json

import pytest
from click.testing import CliRunner

from diffoundry.exporter.checkpoints import weights
from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.cli.export import command as export
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines import available_memory
from diffoundry.runtime.errors import InputError


@pytest.mark.parametrize(
    ("alias", "name", "sentence"),
    [
        ("sd3-medium", "text_encoder_2", "got 'text_encoder_2', expected one of text_encoder_3. Did you mean 'text_"),
        ("kandinsky-3", "unet", "got 'unet', expected one of text_encoder."),
        ("dit-xl-2-256", "vae", "got 'vae', expected none: this checkpoint needs all of its parts."),
    ],
)
def test_only_parts_that_a_checkpoint_may_lack_are_left_out(alias, name, sentence, tmp_path):
    options = ["--model", alias, "--random-weights", "--target", "onnxruntime", "-o", str(tmp_path / "b")]
    result = CliRunner().invoke(export, [*options, "--without", name])
    assert isinstance(result.exception, InputError)
    assert f"--without: {sentence}" in str(result.exception)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_text_encoder_is_left_out(tiny_sd_checkpoint, tmp_path, work_here, monkeypatch):
    monkeypatch.setattr("diffoundry.exporter.jobs.processes.JobProcesses.__call__", lambda _self, *job: work_here(*job))
    folder, output = tiny_sd_checkpoint("sd3"), tmp_path / "b"
    options = ["--model", str(folder), "--target", "onnxruntime", "--without", "text_encoder_3", "-o", str(output)]
    result = CliRunner().invoke(export, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    bundle = Bundle(output)
    assert "text_encoder_3" not in bundle.components
    assert not bundle.has("tokenizer_3/tokenizer.json")
    assert json.loads((output / "model_index.json").read_text())["text_encoder_3"] == [None, None]
    assert bundle.manifest.recipe.without == ("text_encoder_3",)


def test_random_weights_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    """The text encoder of Kandinsky 3, on a machine of 16 GB."""
    monkeypatch.setattr(available_memory, "available_memory", lambda: 16 * 10**9)
    checkpoint = open_checkpoint("kandinsky-3", random_weights=True)
    made = []
    monkeypatch.setattr(weights.DeferredWeights, "fill", made.append)
    sentence = (
        "text_encoder: got 8.7 billion random weights, which take at least 35 GB of memory; this machine has 16 GB "
        "available; use a larger machine, or leave it out with --without text_encoder where a checkpoint may lack it"
    )
    with pytest.raises(InputError) as caught:
        checkpoint.load("text_encoder")
    assert str(caught.value) == sentence
    assert made == []
    module = checkpoint.load("text_encoder", deferred=True)  # an export draws one weight at a time
    assert sum(weight.numel() for weight in module.parameters()) > 8.6e9
    assert made == []

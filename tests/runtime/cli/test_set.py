"""`diffoundry set` and `diffoundry schedulers`: another default scheduler for a bundle, sealed again."""

import json
import os
import shutil
from pathlib import Path

import diffusers
import pytest

from diffoundry.runtime.bundle import edit_config
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.edit_config import complete_edit, replace_json
from diffoundry.runtime.cli.schedulers import command as schedulers_command
from diffoundry.runtime.cli.set import command
from diffoundry.runtime.errors import BundleError, ConfigError, InputError
from diffoundry.runtime.pipelines import load

_CONFIG = "scheduler/scheduler_config.json"


@pytest.fixture
def bundle(emoji_bundle, tmp_path):
    return Path(shutil.copytree(emoji_bundle, tmp_path / "b.bundle"))


def _set(bundle, *changes):
    command.main([str(bundle), *changes], standalone_mode=False)


def test_options_and_names_are_those_of_diffusers(bundle, capsys):
    _set(bundle, "scheduler.beta_end=0.02", "scheduler.timestep_spacing=trailing")
    assert "beta_end: 0.012 -> 0.02" in capsys.readouterr().out
    _set(bundle, "scheduler=dpmpp_2m_karras")
    opened = Bundle(bundle)
    for name in opened.manifest.files:
        opened.file(name)
    config = json.loads((bundle / _CONFIG).read_text())
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(config)
    assert {name: theirs.config[name] for name in ("beta_end", "timestep_spacing", "use_karras_sigmas")} == {
        "beta_end": 0.02,
        "timestep_spacing": "trailing",
        "use_karras_sigmas": True,
    }
    assert {**theirs.config, "_class_name": "x"} == {**theirs.config, **config, "_class_name": "x"}


def test_the_pipeline_generates_with_the_new_scheduler(bundle):
    _set(bundle, "scheduler=euler_a")
    with pytest.raises(InputError, match="eta"):  # DDIM takes it, the ancestral scheduler does not
        load(bundle)("red apple", num_inference_steps=1, seed=0, eta=0.5)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (["scheduler.beta_ed=1"], ConfigError, "'beta_ed' is not an option .* Did you mean 'beta_end'"),
        (["scheduler.beta_end=much"], ConfigError, "option 'beta_end' is 'much', expected a number"),
        (
            ["scheduler.use_karras_sigmas=true"],
            InputError,
            "DDIMScheduler has no option 'use_karras_sigmas', so it would",
        ),
        (["scheduler=eulr"], InputError, "got 'eulr'. Did you mean 'euler'"),
        (["scheduler=FlowMatchEulerDiscrete"], InputError, "does not run on this bundle; 'diffoundry schedulers DIR'"),
        (
            ["unet.in_channels=3"],
            InputError,
            "got the key 'unet.in_channels', expected scheduler=NAME or scheduler.OPT",
        ),
        (["scheduler"], InputError, "got the key 'scheduler', expected"),
        (["scheduler.beta_end=0.02", "scheduler.x=1"], ConfigError, "'x' is not an option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refusals_leave_the_bundle_as_it_was(bundle, emoji_bundle, changes, kind, message):
    with pytest.raises(kind, match=message):
        _set(bundle, *changes)
    for name in (_CONFIG, "diffoundry.json"):
        assert (bundle / name).read_bytes() == (emoji_bundle / name).read_bytes()
    assert sorted(path.name for path in bundle.iterdir()) == sorted(path.name for path in emoji_bundle.iterdir())


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_at", range(6))
def test_an_interrupted_edit_is_completed_or_undone(bundle, monkeypatch, killed_at):
    """A kill at any of the writes and renames: the next `set` opens the bundle and finishes."""
    calls = []

    def dying(function):
        def call(*arguments, **options):
            if len(calls) == killed_at:
                raise _Killed
            calls.append(function)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(edit_config, "write_text", dying(edit_config.write_text))
    with pytest.raises(_Killed):
        _set(bundle, "scheduler.beta_end=0.02")
    monkeypatch.undo()
    _set(bundle, "scheduler.beta_start=0.001")
    opened = Bundle(bundle)
    for name in opened.manifest.files:
        opened.file(name)
    assert opened.read_json(_CONFIG)["beta_start"] == 0.001
    assert not [path.name for path in bundle.iterdir() if path.name.startswith(".diffoundry.next")]


def test_only_files_of_the_bundle_itself_are_written(bundle, tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (bundle / ".diffoundry.next.json").symlink_to(outside)
    with pytest.raises(BundleError, match="no plain file; do not trust this bundle"):
        complete_edit(bundle, _CONFIG)
    (bundle / ".diffoundry.next.json").unlink()
    bundle.with_name(f"{bundle.name}.build").mkdir()
    with pytest.raises(BundleError, match="a build of it is not finished; run 'diffoundry build"):
        replace_json(Bundle(bundle), _CONFIG, {})
    assert outside.read_text() == "{}"


def test_schedulers_lists_those_that_generate(bundle, capsys):
    schedulers_command.main([str(bundle), "--json"], standalone_mode=False)
    listed = json.loads(capsys.readouterr().out)
    assert listed["default"] == "DDIMScheduler"
    assert listed["schedulers"]["EulerAncestralDiscreteScheduler"] == ["euler_a"]
    assert not [name for name in listed["schedulers"] if name.startswith(("Flow", "Helios", "VQ"))]
    schedulers_command.main([str(bundle)], standalone_mode=False)
    text = capsys.readouterr().out
    assert "EulerDiscrete" in text
    assert "the bundle's" in text


def test_schedulers_of_a_flow_matching_model(portable_bundle, capsys):
    schedulers_command.main([str(portable_bundle("sd3")), "--json"], standalone_mode=False)
    listed = json.loads(capsys.readouterr().out)["schedulers"]
    assert listed["FlowMatchEulerDiscreteScheduler"] == ["euler"]

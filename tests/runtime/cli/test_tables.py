"""Tables in a terminal of 80 columns: one line for each engine, and no name is cut."""

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

from diffoundry.exporter.cli.progress import jobs_table, show_progress, tell_engine_notes
from diffoundry.exporter.jobs.runner import FinishedJob
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import PRECISIONS
from diffoundry.runtime.cli import console
from diffoundry.runtime.cli.inspect import command as inspect
from diffoundry.runtime.cli.targets import command as targets
from diffoundry.runtime.engines.plugins import list_plugins
from diffoundry.runtime.engines.select import find_obstacle
from diffoundry.runtime.errors import DiffoundryError

_NARROW = CliRunner(env={"COLUMNS": "80"})


def _table(text, heading):
    """Lines of a table: from its heading to the next empty line."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.strip().startswith(heading))
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    return lines[start:end]


def test_inspect_shows_an_engine_a_line(wide_bundle):
    bundle = wide_bundle("sd1-checked")
    manifest = Bundle(bundle).manifest
    shown = _NARROW.invoke(inspect, [str(bundle)])
    assert shown.exit_code == 0, shown.output
    rows = _table(shown.stdout, "component")[2:]
    assert max(map(len, rows)) <= 80
    assert len(rows) == sum(len(component.engines) for component in manifest.components.values())
    for name in manifest.components:
        assert any(row.split()[0] == name for row in rows)
    full = _NARROW.invoke(inspect, [str(bundle), "--full"]).stdout
    for component in manifest.components.values():
        for tensor in (*component.engines[0].inputs, *component.engines[0].outputs):
            assert f" {tensor.name} " in full


def test_inspect_says_which_engines_cannot_run_here(emoji_bundle, tmp_path):
    """ONNX Runtime has no bf16 on CPUs, as its own precisions say."""
    bundle = tmp_path / "b.bundle"
    shutil.copytree(emoji_bundle, bundle)
    path = bundle / "diffoundry.json"
    manifest = json.loads(path.read_text())
    for component in manifest["components"].values():
        component["engines"].append({**component["engines"][0], "precision": "bf16"})
    path.write_text(json.dumps(manifest))
    shown = _NARROW.invoke(inspect, [str(bundle)])
    rows = _table(shown.stdout, "component")[2:]
    assert ["runs" if "fp32" in row else "cannot run" for row in rows] == [
        " ".join(row.split()[-(2 if row.rstrip().endswith("cannot run") else 1) :]) for row in rows
    ]
    assert "onnxruntime bf16 cannot run here: the device 'cpu' does not compute in bf16 itself" in shown.stdout
    found = json.loads(_NARROW.invoke(inspect, [str(bundle), "--json"]).stdout)["obstacles"]
    assert list(found) == ["onnxruntime bf16"]


def test_export_reports_engines_that_cannot_run_here(emoji_bundle, monkeypatch):
    told = []
    monkeypatch.setattr("diffoundry.exporter.cli.progress.remark", told.append)
    manifest = Bundle(emoji_bundle).manifest
    tell_engine_notes(manifest)
    assert told == []
    unet = manifest.components["unet"]
    engines = (replace(unet.engines[0], precision="bf16"), replace(unet.engines[0], pending="no GPU"))
    changed = {**manifest.components, "unet": replace(unet, engines=engines)}
    tell_engine_notes(replace(manifest, components=changed))
    assert told == [
        "onnxruntime fp32 is not built yet (unet): no GPU",
        f"onnxruntime bf16 cannot run on this machine: {find_obstacle(engines[0])}",
    ]


def test_inspect_check_names_every_damaged_file(emoji_bundle, tmp_path):
    bundle = tmp_path / "b.bundle"
    shutil.copytree(emoji_bundle, bundle)
    (bundle / "notes.txt").write_text("mine")
    good = _NARROW.invoke(inspect, [str(bundle), "--check"])
    assert good.exit_code == 0
    assert "not part of the bundle, and never read: notes.txt" in good.stdout
    assert good.stdout.splitlines()[-1].startswith("passed: all ")
    for name in ("unet/model.onnx_data", "scheduler/scheduler_config.json"):
        content = bytearray((bundle / name).read_bytes())
        content[-2] ^= 1
        (bundle / name).write_bytes(content)
    bad = _NARROW.invoke(inspect, [str(bundle), "--check"])
    assert bad.exit_code == 1
    assert "unet/model.onnx_data has SHA-256" in bad.stdout
    assert "scheduler/scheduler_config.json has SHA-256" in bad.stdout
    assert bad.stdout.splitlines()[-1].startswith("FAILED: 2 of ")
    as_json = json.loads(_NARROW.invoke(inspect, [str(bundle), "--check", "--json"]).stdout)
    assert set(as_json["damaged"]) == {"unet/model.onnx_data", "scheduler/scheduler_config.json"}
    (bundle / "diffoundry.json").unlink()
    without = _NARROW.invoke(inspect, [str(bundle), "--check"])
    assert without.exit_code == 1
    assert "no checksums, so nothing can be checked" in str(without.exception)


def test_targets_say_what_works_here():
    shown = _NARROW.invoke(targets, [])
    assert max(map(len, shown.stdout.splitlines())) <= 80 or "install it with" in shown.stdout
    rows = {row["name"]: row for row in json.loads(_NARROW.invoke(targets, ["--json"]).stdout)}
    text = " ".join(shown.stdout.split())
    assert rows["onnxruntime"]["builds_here"]
    assert "onnxruntime runs on cpu" in text
    for name in ("coreml", "tensorrt-rtx"):
        if rows[name]["installed"] and not rows[name]["devices"]:
            assert f"{name} builds here, cannot run" in text
    for name, row in rows.items():
        if not row["installed"]:
            assert f"{name}: install it with: {row['install']}" in shown.stdout


@pytest.mark.parametrize("plugin", list_plugins(), ids=lambda plugin: plugin.name)
def test_the_listed_precisions_are_those_that_an_export_takes(plugin):
    options = {"coreml": {"deployment_target": "iOS18"}}  # four bits need it
    target = plugin.make_target(options.get(plugin.name, {}))

    def takes(precision):
        try:
            target.form(precision)
        except DiffoundryError:
            return False
        return True

    assert list(plugin.compiles) == [precision for precision in PRECISIONS if takes(precision)]


def test_jobs_are_a_line_each(emoji_bundle, capsys, monkeypatch):
    monkeypatch.setattr(console.out, "_width", 80)
    manifest = Bundle(emoji_bundle).manifest
    label = "text_encoder_3, tensorrt-rtx int4-weights"
    done = [FinishedJob(component="unet", label=label, seconds={"trace": 1234.5, "passes": 2.0}, peak_rss=12_345_678)]
    console.out.print(jobs_table(done, ["unet, onnxruntime fp32"], manifest))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(rows) == 4
    assert label in rows[-1]
    assert rows[-1].split()[-3:] == ["1236.5", "12.3", "MB"]


def test_an_interrupted_export_says_how_to_continue(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), show_progress(4, "export", tmp_path / "x.bundle.partial") as tell:  # noqa: PT012
        tell("unet", "load")
        tell("unet", "done")
        tell("unet, onnxruntime fp32", "lower")
        raise KeyboardInterrupt
    lines = capsys.readouterr().err.splitlines()
    assert "1/4 unet: done" in lines
    assert lines[-1] == (
        f"1 of 4 jobs are kept in {tmp_path}/x.bundle.partial; run the same 'diffoundry export' again to continue"
    )

"""Assembled configs, and their scratch folder: one a process, and none left behind."""

import json
import os
import subprocess
import sys

import pytest

from diffoundry.exporter.configs.assemble import assemble_configs

SCRIPT = """
import os, sys
from diffoundry.exporter.configs.assemble import remove_scratch, scratch_folder
own = scratch_folder()
pid = os.fork()
if pid == 0:
    forked = scratch_folder()
    (forked / "config.json").write_text("{}")
    good = forked != own and forked == scratch_folder()
    remove_scratch()
    os._exit(0 if good and not forked.exists() and own.is_dir() else 1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(own)
sys.exit(status if own.is_dir() else 2)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs are not forked here")
def test_a_forked_process_has_its_own_and_removes_it(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert not list(tmp_path.iterdir())


def test_components_come_from_elsewhere_and_are_changed(tmp_path):
    for name, fields in {
        "own/model_index.json": {"_class_name": "Made", "unet": ["diffusers", "UNet2DModel"]},
        "own/vae/config.json": {"in_channels": 3},
        "other/unet/config.json": {"in_channels": 4, "sample_size": 64},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(fields))
    changes = {"unet/config.json": {"in_channels": 9}}
    components = {"unet": tmp_path / "other/unet"}
    folder = assemble_configs(tmp_path / "own", changes, components)
    found = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("*.json")}
    assert found == {
        "model_index.json": {"_class_name": "Made", "unet": ["diffusers", "UNet2DModel"]},
        "vae/config.json": {"in_channels": 3},
        "unet/config.json": {"in_channels": 9, "sample_size": 64},
    }
    assert json.loads((tmp_path / "other/unet/config.json").read_text())["in_channels"] == 4, "the source is unchanged"
    assert assemble_configs(tmp_path / "own", changes, components) == folder
    assert assemble_configs(tmp_path / "own", {}, components) != folder
    assert not (assemble_configs(tmp_path / "own") / "unet").exists()

"""The scratch folder of assembled configs: one a process, and none left behind."""

import os
import subprocess
import sys

import pytest

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

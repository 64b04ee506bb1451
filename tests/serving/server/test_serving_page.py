"""The commands and snippets of the page about serving, against a server of the model that it names."""

import shlex
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from doc_pages import blocks, commands
from running_server import running_server

from diffoundry.runtime import load
from diffoundry.runtime.cli.group import group

_PAGE = "docs/how-to/serve.md"


@pytest.mark.slow
def test_the_page_runs_as_typed(exported, tmp_path, monkeypatch, capsys):
    shutil.copytree(exported("emoji"), tmp_path / "emoji.bundle")
    monkeypatch.chdir(tmp_path)
    names, printed = {}, []
    with load("emoji.bundle") as pipe, running_server([pipe]) as running:
        here = SimpleNamespace(old="127.0.0.1:8000", new=f"127.0.0.1:{running.port}")
        for block in [one for one in blocks(_PAGE) if one.exception]:
            if block.language == "python":
                exec(compile(block.text.replace(here.old, here.new), f"{_PAGE}:{block.line}", "exec"), names)
            for command in commands(block) if block.language == "sh" else ():
                words = shlex.split(command.replace(here.old, here.new))
                if words[0] == "curl":
                    done = subprocess.run([*words, "--fail", "--silent"], capture_output=True, text=True, check=True)
                    printed.append(done.stdout)
    assert '"id":"emoji"' in printed[0]
    assert f'"url":"http://{here.new}/v1/images/files/' in printed[1]
    assert capsys.readouterr().out.split() == [
        *["image_generation.partial_image"] * 3, "image_generation.completed", "done",
    ]  # fmt: skip
    group.main(
        ["generate", "emoji.bundle", "red apple", "--seed", "0", "--steps", "4", "--num-images", "2", "--height", "64",
         "--width", "64", "-o", "apples/"], standalone_mode=False,
    )  # fmt: skip
    assert (tmp_path / "apple.png").read_bytes() == min((tmp_path / "apples").iterdir()).read_bytes()

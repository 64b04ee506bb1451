"""Names of LoRAs that clients send, looked up in a folder of the operator."""

import os
import sys

import pytest

from diffoundry.runtime.errors import InputError
from diffoundry.serving.lora_folder import LoraFolder


def test_names_may_hold_a_colon(tmp_path):
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in ("style", "style:v2", "style:2")}
    for path in paths.values():
        open(path, "wb").close()
    folder = LoraFolder(tmp_path)
    assert folder.choose(["style:v2:0.5", "style:0.25"]) == {paths["style:v2"]: 0.5, paths["style"]: 0.25}
    assert folder.choose(["style:2"]) == {paths["style:2"]: 1.0}  # a file of this name goes before a scale
    with pytest.raises(InputError, match=r"loras: got 'style:', expected NAME or NAME:SCALE such as style:0.8"):
        folder.choose(["style:"])
    with pytest.raises(InputError, match=r"loras: got 'stile', expected one of .* Did you mean 'style'"):
        folder.choose(["stile:0.5"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_names_that_are_no_text_are_left_out(tmp_path):
    for name in (b"style.safetensors", b"\xff.safetensors"):
        open(os.path.join(os.fsencode(tmp_path), name), "wb").close()
    assert list(LoraFolder(tmp_path).names()) == ["style"]


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(InputError, match=r"loras: the folder of the operator cannot be read .*--lora-dir"):
        LoraFolder(tmp_path / "gone").choose(["style"])
    assert LoraFolder(None).names() == {}

"""Imports: the engine loads no framework, and the vendor's library only when it is used."""

import json
import subprocess
import sys

import pytest

FRAMEWORKS = {"torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript"}
VENDORS = {"tensorrt", "tensorrt_rtx", "tensorrt_bindings", "tensorrt_rtx_bindings", "cuda"}


def loaded_by(statement):
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


@pytest.mark.parametrize("part", ["engine", "devices", "precisions"])
def test_the_engine_loads_no_framework(part):
    loaded = loaded_by(
        f"from diffoundry.runtime.engines.plugins import find_plugin\nfind_plugin('tensorrt').load({part!r})\n"
        f"find_plugin('tensorrt-rtx').load({part!r})"
    )
    assert not loaded & (FRAMEWORKS | VENDORS)
    assert "numpy" in loaded


def test_the_target_is_there_without_the_library():
    loaded = loaded_by(
        "from diffoundry.runtime.engines.plugins import find_plugin\n"
        "for name in ('tensorrt', 'tensorrt-rtx'): find_plugin(name).make_target({}).form('fp8')"
    )
    assert not loaded & (VENDORS | {"torch"})

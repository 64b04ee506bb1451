"""Imports in fresh processes: the runtime and the engines load no framework."""

import json
import subprocess
import sys

import pytest

_FRAMEWORKS = {"torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript"}
_VENDORS = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "coremltools"}

_IMPORT_ALL = """
import importlib, json, pkgutil, sys
for name in {modules!r}:
    module = importlib.import_module(name)
    for info in pkgutil.walk_packages(getattr(module, "__path__", ()), name + "."):
        if not info.module_finder.find_spec(info.name).origin.endswith(".so"):  # native code that was built in place
            importlib.import_module(info.name)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def _loaded_by(*modules: str) -> set[str]:
    code = _IMPORT_ALL.format(modules=modules)
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def test_the_whole_runtime_loads_no_framework_and_no_vendor():
    loaded = _loaded_by("diffoundry.runtime")
    assert not loaded & (_FRAMEWORKS | _VENDORS)
    assert "numpy" in loaded


def test_serving_loads_no_framework_and_no_vendor():
    assert not _loaded_by("diffoundry.serving") & (_FRAMEWORKS | _VENDORS)


@pytest.mark.parametrize("target", ["onnxruntime"])
def test_an_engine_loads_no_framework(target):
    loaded = _loaded_by("diffoundry.runtime", f"diffoundry.targets.{target}.run")
    assert not loaded & _FRAMEWORKS
    assert target in loaded


def test_importing_the_runtime_alone_loads_next_to_nothing():
    code = "import json, sys, diffoundry.runtime; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"numpy", "PIL", "tokenizers", "click", "rich"} & set(loaded)


def test_help_loads_no_command():
    code = (
        "import json, sys\nsys.argv = ['diffoundry', '--help']\n"
        "from diffoundry.runtime.cli.main import main\nmain()\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('diffoundry.')]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    loaded = json.loads(shown.splitlines()[-1])
    assert "Compile a checkpoint into a bundle." in shown
    assert not [name for name in loaded if name.startswith(("diffoundry.exporter", "diffoundry.runtime.cli.generate"))]

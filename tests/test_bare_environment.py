"""The wheel in a virtual environment with only the base dependencies: it imports, tests itself, and knows its model."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

# Tests of the runtime that need nothing but the base dependencies, pytest and hypothesis.
_UNIT_TESTS = (
    "tests/runtime/bundle/test_json_codec.py",
    "tests/runtime/bundle/test_bundle.py",
    "tests/runtime/engines/test_session.py",
    "tests/runtime/images/test_png.py",
    "tests/runtime/images/test_png_read.py",
    "tests/runtime/random",
)


def _run(*command: object, **options) -> str:
    run = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """Python of a fresh environment that holds the built wheel, its base dependencies, pytest and hypothesis."""
    folder = tmp_path_factory.mktemp("bare")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, _ROOT)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    (wheel,) = folder.glob("*.whl")
    _run(*pip, "--python", python, "install", "--quiet", wheel, "pytest", "pytest-timeout", "hypothesis")
    return python


def test_only_the_base_dependencies_are_there(bare_python):
    absent = ["torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxruntime", "scipy", "click", "rich"]
    code = f"import importlib.util as u; print([m for m in {absent!r} if u.find_spec(m)])"
    present = set(eval(_run(bare_python, "-c", code)))
    # huggingface_hub, which tokenizers asks for, may bring these two.
    assert present <= {"click", "rich"}


def test_every_module_of_the_runtime_but_commands_and_reports_imports(bare_python):
    code = (
        "import importlib, pkgutil, diffoundry.runtime as r\n"
        "names = [i.name for i in pkgutil.walk_packages(r.__path__, 'diffoundry.runtime.') "
        "if not i.name.startswith(('diffoundry.runtime.cli', 'diffoundry.runtime.report.'))]\n"
        "[importlib.import_module(name) for name in names]\n"
        "print(len(names))"
    )
    assert int(_run(bare_python, "-c", code)) > 40


def test_the_runtime_tests_itself(bare_python):
    _run(
        bare_python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--confcutdir=tests/runtime",
        *_UNIT_TESTS,
        cwd=_ROOT,
    )


def test_the_embedded_model_is_in_the_wheel(bare_python):
    code = (
        "from importlib.resources import files\n"
        "model = files('diffoundry') / 'models' / 'emoji'\n"
        "print((model / 'model_index.json').is_file(), (model / 'unet/diffusion_pytorch_model.safetensors').is_file())"
    )
    assert _run(bare_python, "-c", code, cwd="/").split() == ["True", "True"]


def test_the_command_names_the_missing_extra(bare_python):
    diffoundry = bare_python.with_name("diffoundry")
    run = subprocess.run([diffoundry, "export", "--model", "emoji"], capture_output=True, text=True, cwd="/")
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "pip install 'diffoundry[" in run.stderr

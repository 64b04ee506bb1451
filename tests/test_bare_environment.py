"""The wheel in a virtual environment with only the base dependencies: it imports, tests itself, and knows its model."""

import re
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
    "tests/runtime/images/test_read_settings.py",
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
        "[importlib.import_module(name) for name in (*names, 'diffoundry.serving')]\n"
        "print(len(names))"
    )
    assert int(_run(bare_python, "-c", code)) > 40


@pytest.mark.slow
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


def test_the_page_of_the_server_is_in_the_wheel(bare_python):
    code = (
        "from importlib.resources import files\n"
        "print(sorted(path.name for path in (files('diffoundry') / 'serving/page').iterdir()))"
    )
    assert eval(_run(bare_python, "-c", code)) == sorted(path.name for path in (_ROOT / "serving/page").iterdir())


@pytest.mark.slow
def test_the_demo_models_are_a_wheel_of_their_own(bare_python):
    code = (
        "from importlib.resources import files\n"
        "from importlib.util import find_spec\n"
        "folder = files('diffoundry')\n"
        "print(find_spec('diffoundry_models'), (folder / 'models').is_dir(), "
        "sum(path.stat().st_size for path in folder.rglob('*') if path.is_file() and path.suffix != '.pyc'))"
    )
    package, models, size = _run(bare_python, "-c", code, cwd="/").split()
    assert (package, models) == ("None", "False")
    assert int(size) < 5_000_000  # nine tenths are Python; the demo models are larger
    _run(
        *[sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", bare_python, "install"],
        *["--quiet", "--no-deps", _ROOT / "models"],
    )
    code = (
        "from importlib.resources import files\n"
        "from pathlib import Path\n"
        "folder = files('diffoundry_models')\n"
        "names = ['emoji/model_index.json', 'emoji/unet/diffusion_pytorch_model.safetensors',\n"
        "         'emoji-dit/transformer/diffusion_pytorch_model.safetensors',\n"
        "         'emoji-edges/config.json', 'emoji-flat/pytorch_lora_weights.safetensors',\n"
        "         'emoji-pixels/unet/diffusion_pytorch_model.safetensors',\n"
        "         'emoji-x4/vae/diffusion_pytorch_model.safetensors']\n"
        "print(*((folder / name).is_file() for name in names))"
    )
    assert _run(bare_python, "-c", code, cwd="/").split() == ["True"] * 7


def test_the_command_names_the_missing_extra(bare_python):
    diffoundry = bare_python.with_name("diffoundry")
    run = subprocess.run([diffoundry, "export", "--model", "emoji"], capture_output=True, text=True, cwd="/")
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert re.search(r"pip install '/.*diffoundry-.*\.whl\[(cli|export)\]'$", run.stderr.strip())

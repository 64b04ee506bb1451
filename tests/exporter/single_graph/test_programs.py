"""The programs of docs/examples/single_graph: Python, C++ and JavaScript make the image of `generate`."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from diffoundry.runtime import load

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / "docs/examples/single_graph"
NODE_PACKAGE = ROOT / "node_modules/onnxruntime-node"
ARGUMENTS = {"num_inference_steps": 3, "guidance_scale": 5.0, "negative_prompt": "blue", "seed": 4}


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def model(with_graph, tmp_path_factory):
    """The graph of a stochastic scheduler, its inputs, and the images of `generate`, one below the other."""
    bundle, inputs = with_graph(steps=3, scheduler="euler_a"), tmp_path_factory.mktemp("programs") / "inputs"
    options = "--negative-prompt", "blue", "--guidance-scale", 5, "--seed", 4, "--num-images", 2, "-o", inputs
    run(sys.executable, PROGRAMS / "make_inputs.py", bundle, "a red apple", *options)
    made = load(bundle)("a red apple", scheduler="euler_a", num_images_per_prompt=2, **ARGUMENTS).images
    return bundle / "model.onnx", inputs, np.concatenate([np.asarray(one) for one in made]).astype(int)


def test_python(model, tmp_path):
    graph, inputs, image = model
    run(sys.executable, PROGRAMS / "run.py", graph, inputs, tmp_path / "image.png")
    assert np.abs(np.asarray(Image.open(tmp_path / "image.png")) - image).max() <= 1


@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="needs CMake and a C++ compiler")
def test_c_plus_plus(model, tmp_path):
    graph, inputs, image = model
    library = tmp_path / "libonnxruntime.so.1"  # the name that programs are linked to
    folder = Path(onnxruntime.__file__).parent / "capi"
    library.symlink_to(next(folder.glob("libonnxruntime.so*"), folder))
    if not library.is_file():
        pytest.skip("needs the library of ONNX Runtime for Linux in its wheel")
    headers = ROOT / "tests/support/onnxruntime_abi"
    places = f"-DONNXRUNTIME_LIBRARY={library}", f"-DONNXRUNTIME_INCLUDE={headers}"
    run("cmake", "-S", PROGRAMS, "-B", tmp_path / "build", *places)
    run("cmake", "--build", tmp_path / "build")
    run(tmp_path / "build/run", graph, inputs, tmp_path / "image.ppm")
    assert np.abs(np.asarray(Image.open(tmp_path / "image.ppm")) - image).max() <= 1


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node")
@pytest.mark.skipif(not NODE_PACKAGE.is_dir(), reason="needs onnxruntime-node: npm install onnxruntime-node")
def test_javascript(model, tmp_path):
    graph, inputs, image = model
    (tmp_path / "node_modules").symlink_to(NODE_PACKAGE.parent)
    shutil.copy(PROGRAMS / "run.mjs", tmp_path)
    run("node", tmp_path / "run.mjs", graph, inputs, tmp_path / "image.ppm")
    assert np.abs(np.asarray(Image.open(tmp_path / "image.ppm")) - image).max() <= 1

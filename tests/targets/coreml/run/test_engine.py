"""The engine: its error without a Mac, and its calls of a fake coremltools that interprets packages."""

import platform
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from coreml_interpreter.fake_coremltools import install_fake

from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.engines.protocol import EngineOptions, run_checked
from diffoundry.runtime.errors import BundleError, EngineError, InputError
from diffoundry.targets.coreml import PLUGIN
from diffoundry.targets.coreml.run.engine import CoreMlEngine, devices, precisions
from diffoundry.targets.coreml.run.functions import package_folders


@pytest.mark.skipif(sys.platform == "darwin", reason="there it opens")
def test_elsewhere_it_says_where_it_runs(tmp_path):
    assert devices() == ()
    with pytest.raises(EngineError, match="got Linux, expected macOS: .* --target onnxruntime"):
        CoreMlEngine(tmp_path / "x.mlpackage/Manifest.json", None, EngineOptions())


def test_the_plugin_points_at_what_exists():
    for part in ("target", "engine", "devices", "precisions"):
        assert callable(PLUGIN.load(part))


def test_importing_the_engine_loads_neither_torch_nor_coremltools():
    code = (
        "import sys, diffoundry.targets.coreml.run.engine as engine; engine.devices();"
        "print([name for name in ('torch', 'coremltools', 'onnx', 'onnx_ir') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def mac(monkeypatch):
    """A Mac with Apple's processor, whose coremltools interprets packages."""
    return install_fake(monkeypatch)


@pytest.mark.parametrize(
    ("device", "unit"), [("all", "ALL"), ("cpu", "CPU_ONLY"), ("gpu", "CPU_AND_GPU"), ("ane", "CPU_AND_NE")]
)
def test_devices_are_compute_units(mac, lowered, device, unit):
    made = lowered("sd1", "vae_decoder")
    with CoreMlEngine(made.path, made.spec, EngineOptions(device=device)):
        assert mac.opened == [(str(made.packages[0]), unit, None)]


def test_devices_of_a_mac(mac, monkeypatch):
    assert devices() == ("all", "cpu", "gpu", "ane")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert devices() == ("all", "cpu", "gpu")
    with pytest.raises(EngineError, match="device: got 'cuda', expected one of all, cpu, gpu"):
        CoreMlEngine("x", None, EngineOptions(device="cuda"))


def test_the_neural_engine_has_no_single_precision():
    assert "fp32" not in precisions("ane")
    assert precisions("ane")[0] == "fp16"
    assert "int8" not in precisions("cpu")
    assert precisions("cuda") == ()


@pytest.mark.slow_cases("diffusers-unet", "diffusers-vae_*")
@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
@pytest.mark.parametrize("layout", ["diffusers", "swift"])
def test_the_runtimes_tensors_become_the_packages(mac, lowered, torch_outputs, make_feeds, component, layout):
    made = lowered("sd1", component, layout=layout)
    feeds = make_feeds(made.spec.inputs)
    with CoreMlEngine(made.path, made.spec, EngineOptions()) as opened:
        outputs = run_checked(opened, feeds, component)
    for name, expected in torch_outputs("sd1", component, feeds).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-4)
        assert outputs[name].flags.owndata


def test_several_functions_are_opened_by_name(mac, lowered):
    made = lowered("sd1", "vae_decoder", buckets=((64, 64), (96, 72)), deployment_target="iOS18")
    with CoreMlEngine(made.path, made.spec, EngineOptions()) as opened:
        assert [name for _, _, name in mac.opened] == ["size_64x64", "size_72x96"]
        with pytest.raises(EngineError, match="expected those of one of"):
            opened.run({"latent_sample": np.zeros((1, 4, 3, 3), np.float32)})


def test_what_was_compiled_is_kept(mac, lowered, tmp_path):
    made = lowered("sd1", "vae_decoder")
    options = EngineOptions(cache_dir=tmp_path)
    feeds = {"latent_sample": np.ones((1, 4, 8, 8), np.float32)}
    with CoreMlEngine(made.path, made.spec, options) as first:
        expected = first.run(feeds)["sample"]
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".mlmodelc"
    with CoreMlEngine(made.path, made.spec, options) as second:
        np.testing.assert_array_equal(second.run(feeds)["sample"], expected)
    assert mac.compiled == [str(kept)]
    assert len(mac.opened) == 1
    changed = tmp_path / "changed/vae_decoder/model.mlpackage"
    shutil.copytree(made.packages[0], changed)
    weights = changed / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes() + b"\0" * 64)
    CoreMlEngine(changed / "Manifest.json", None, options)
    assert len(mac.opened) == 2, "other weights are another package"


def test_a_package_that_core_ml_refuses(mac, lowered, monkeypatch):
    made = lowered("sd1", "vae_decoder")

    def refuse(*_arguments, **_settings):
        warnings.warn("You will not be able to run predict() on this Core ML model", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr(mac.models, "MLModel", refuse)
    with pytest.raises(
        EngineError, match="Core ML on macOS 15.1 cannot open it: You will not be able .* --deployment-target"
    ):
        CoreMlEngine(made.path, made.spec, EngineOptions())


def test_a_call_that_core_ml_refuses(mac, lowered, monkeypatch):
    made = lowered("sd1", "vae_decoder")
    monkeypatch.setattr(mac.models.MLModel, "predict", lambda *_: 1 / 0)
    with (
        CoreMlEngine(made.path, made.spec, EngineOptions()) as opened,
        pytest.raises(EngineError, match=r"Core ML failed on inputs of shape .*\(1, 4, 8, 8\).*: division by zero"),
    ):
        opened.run({"latent_sample": np.ones((1, 4, 8, 8), np.float32)})


def test_wrong_feeds_are_refused_before_core_ml_sees_them(mac, lowered):
    made = lowered("sd1", "vae_decoder")
    with CoreMlEngine(made.path, made.spec, EngineOptions()) as opened:
        with pytest.raises(InputError, match="got shape"):
            run_checked(opened, {"latent_sample": np.zeros((1, 4, 3, 3), np.float32)}, "vae_decoder")
        with pytest.raises(InputError, match="missing"):
            run_checked(opened, {}, "vae_decoder")


@pytest.mark.parametrize("extra", ["weights/more.bin", "link", "com.apple.CoreML/other.mlmodel"])
def test_a_package_holds_what_the_manifest_lists(tmp_path, extra):
    package = tmp_path / "unet/model.mlpackage"
    names = ["Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"]
    for name in names:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    files = tuple(f"unet/model.mlpackage/{name}" for name in names)
    spec = EngineSpec(target="coreml", precision="fp16", files=files, inputs=(), outputs=())
    assert package_folders(package / "Manifest.json", spec) == (package,)
    (package / "Data" / extra).parent.mkdir(parents=True, exist_ok=True)
    if extra == "link":
        (package / "Data/link").symlink_to(tmp_path)
    else:
        (package / "Data" / extra).touch()
    with pytest.raises(BundleError, match="which the manifest does not list; do not trust this bundle"):
        package_folders(package / "Manifest.json", spec)

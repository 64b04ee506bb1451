"""The engine beyond the contract: PyTorch's numbers, options, folders without a manifest, and ONNX Runtime's errors."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import AdapterSpec, EngineSpec, TensorSpec
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.protocol import AdapterWeights, EngineOptions, run_checked
from diffoundry.runtime.errors import BundleError, EngineError
from diffoundry.targets.onnxruntime.run import engine as engine_module
from diffoundry.targets.onnxruntime.run.engine import OnnxRuntimeEngine, devices, precisions

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")


@pytest.fixture(scope="module")
def bundle(exported, tiny_sd_checkpoint):
    return Bundle(exported(tiny_sd_checkpoint()))


@pytest.fixture
def open_engine(bundle):
    """Factory: the engine of a component; options by name."""

    def make(component, *, adapters=None, **options):
        (spec,) = bundle.engines(component)
        return OnnxRuntimeEngine(bundle.file(spec.files[0]), spec, EngineOptions(**options), adapters=adapters)

    return make


def make_feeds(engine, batch=2, height=8, width=8):
    generator = np.random.default_rng(0)
    sizes = {"batch": batch, "sequence": 77, "height/8": height, "width/8": width}
    sizes |= {"height": 8 * height, "width": 8 * width}
    feeds = {}
    for spec in engine.inputs:
        shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
        if spec.dtype == "int32":
            feeds[spec.name] = generator.integers(0, 4294, shape).astype(np.int32)
        elif spec.name == "timestep":
            feeds[spec.name] = np.array([481.5], np.float32)
        else:
            feeds[spec.name] = generator.standard_normal(shape).astype(np.float32)
    return feeds


@pytest.mark.parametrize("component", COMPONENTS)
def test_pytorchs_numbers_at_several_sizes(open_engine, tiny_sd_checkpoint, component):
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint()))
    described = checkpoint.component(component)
    module = resolve(described.wrapper)(checkpoint.load(component), described).eval()
    with open_engine(component) as engine:
        for batch, height, width in ((1, 8, 8), (3, 6, 10)):
            feeds = make_feeds(engine, batch, height, width)
            outputs = run_checked(engine, feeds, component)
            with torch.inference_mode():
                wanted = module(*(torch.from_numpy(feeds[spec.name]) for spec in described.inputs))
            for spec, expected in zip(described.outputs, wanted, strict=True):
                error = outputs[spec.name] - expected.numpy()
                assert np.sqrt((error**2).mean()) <= 1e-5 * np.sqrt((expected.numpy() ** 2).mean())


def test_threads_reach_the_session(open_engine):
    with open_engine("text_encoder", threads=1) as engine:
        (session,) = engine._sessions.values()
        assert session.get_session_options().intra_op_num_threads == 1
        assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(("precision", "once"), [("fp32", False), ("int8-weights", True), ("int4-weights", True)])
def test_weights_in_integers_are_held_once(monkeypatch, tmp_path, precision, once):
    opened, freed = [], []
    monkeypatch.setattr(engine_module, "free_at_once", lambda: freed.append(True))
    monkeypatch.setattr(engine_module, "open_session", lambda *args, **_: opened.append(args) or NoSession())
    spec = EngineSpec(target="onnxruntime", precision=precision, files=("unet/model.onnx",), inputs=(), outputs=())
    monkeypatch.setattr(engine_module, "check_graph_files", lambda *_: None)
    OnnxRuntimeEngine(tmp_path / "model.onnx", spec, EngineOptions()).close()
    ((_, settings, *_),) = opened
    assert settings.enable_cpu_mem_arena is not once
    assert bool(freed) is once
    if once:
        assert settings.get_session_config_entry("session.disable_prepacking") == "1"


class NoSession:
    """A session of a graph without inputs and outputs."""

    def get_inputs(self):
        return ()

    def get_outputs(self):
        return ()


def test_only_the_form_in_use_is_held_where_memory_is_short(open_engine, bundle):
    (spec,) = bundle.engines("unet")
    module = next(iter(spec.adapters.layers))
    rows, columns = spec.adapters.layers[module]
    arrays = {f"{module}.lora_A": np.ones((columns, 1), "f"), f"{module}.lora_B": np.ones((1, rows), "f")}
    weights = AdapterWeights(graph=bundle.file(spec.adapters.files[0]), arrays=arrays)
    for keep_both, held in ((True, 2), (False, 1)):
        with open_engine("unet", keep_both=keep_both) as engine:
            engine.set_adapters(weights)
            assert len(engine._sessions) == held
            engine.set_adapters(None)
            assert len(engine._sessions) == held


def test_a_folder_without_a_manifest_tells_its_own_inputs(bundle):
    path = bundle.root / "unet/model.onnx"
    (spec,) = bundle.engines("unet")
    with OnnxRuntimeEngine(path, None, EngineOptions()) as engine:
        assert engine.inputs == spec.inputs
        assert engine.outputs == spec.outputs


def test_a_file_that_onnx_runtime_refuses(bundle, tmp_path):
    (spec,) = bundle.engines("unet")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    spec = replace(spec, built_with={"onnxruntime": "9.9.9"})
    with pytest.raises(
        EngineError,
        match=rf"(?s)engine .*model.onnx: ONNX Runtime {onnxruntime.__version__} cannot open it "
        r"\(built with onnxruntime 9.9.9\): .*Export it again with this version, or install the one",
    ):
        OnnxRuntimeEngine(path, spec, EngineOptions())


def test_a_graph_whose_weights_are_gone(bundle, tmp_path):
    shutil.copy(bundle.root / "unet/model.onnx", tmp_path)
    with pytest.raises(EngineError, match=r"(?s)cannot open it: .*model\.onnx_data"):
        OnnxRuntimeEngine(tmp_path / "model.onnx", None, EngineOptions())


def test_a_failure_names_the_shapes(open_engine):
    """A width that the graph's weights cannot take, past the check of feeds."""
    with open_engine("unet") as engine:
        feeds = make_feeds(engine)
        feeds["encoder_hidden_states"] = feeds["encoder_hidden_states"][:, :, :-1]
        with pytest.raises(EngineError, match=r"(?s)ONNX Runtime \S+ failed on inputs of shape .*\(2, 77, 31\)"):
            engine.run(feeds)


def test_devices_are_those_of_the_installed_library(monkeypatch):
    assert devices()[0] == "cpu"
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(engine_module.ort, "get_available_providers", lambda: providers)
    assert devices() == ("cpu", "cuda")
    assert engine_module._provider("cuda:1") == ("CUDAExecutionProvider", {"device_id": 1})


def test_bf16_is_for_gpus():
    assert "bf16" not in precisions("cpu")
    assert "bf16" in precisions("cuda:1")
    assert precisions("cpu")[0] == "fp32"


@pytest.mark.skipif("cuda" in devices(), reason="there it opens")
def test_a_gpu_takes_another_package(open_engine):
    with pytest.raises(
        EngineError, match=r"device: got 'cuda', expected one of cpu .*for CUDA install onnxruntime-gpu"
    ):
        open_engine("text_encoder", device="cuda")


def test_a_device_with_a_number_that_is_none(open_engine):
    with pytest.raises(EngineError, match="device: got 'cpu:first', expected one of cpu"):
        open_engine("text_encoder", device="cpu:first")


def test_only_the_weights_that_the_manifest_lists(tmp_path):
    """ONNX Runtime itself takes every file below the folder."""
    weights = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "y")]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:], initializer=[weights])
    path = tmp_path / "model.onnx"
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(model, path, save_as_external_data=True, location="extra", size_threshold=0)
    tensors = [TensorSpec(name=name, dtype="float32", shape=(4,)) for name in ("x", "y")]
    spec = EngineSpec(
        target="onnxruntime", precision="fp32", files=("unet/model.onnx",), inputs=(tensors[0],), outputs=(tensors[1],)
    )
    with pytest.raises(BundleError, match="in the file 'extra', which the manifest does not list for it; do not trust"):
        OnnxRuntimeEngine(path, spec, EngineOptions())
    listed = replace(spec, files=("unet/model.onnx", "unet/extra"))
    with OnnxRuntimeEngine(path, listed, EngineOptions()) as engine:
        np.testing.assert_array_equal(engine.run({"x": np.ones(4, np.float32)})["y"], [1, 2, 3, 4])
    adaptable = replace(spec, adapters=AdapterSpec(files=("unet/other.onnx", "unet/extra")))
    shutil.copy(path, tmp_path / "other.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: its weights are in the file 'extra'"):
        OnnxRuntimeEngine(path, adaptable, EngineOptions())
    OnnxRuntimeEngine(
        path, adaptable, EngineOptions(), adapters=AdapterWeights(graph=tmp_path / "other.onnx", arrays={})
    ).close()

"""The engine: PyTorch's numbers in every precision, sizes and buckets, threads, cache, types at the edge, errors."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
from device_precisions import requires_precision

from diffoundry.exporter.verify.checks.gates import gates_for
from diffoundry.runtime.bench.machine import machine_facts
from diffoundry.runtime.engines.protocol import EngineOptions, run_checked
from diffoundry.runtime.errors import BundleError, EngineError, InputError
from diffoundry.runtime.native import attention_library
from diffoundry.targets.openvino.run import devices, feed_weights, fixed_sizes
from diffoundry.targets.openvino.run import engine as engine_module
from diffoundry.targets.openvino.run.devices import core
from diffoundry.targets.openvino.run.engine import OpenVinoEngine

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
BUCKETS = ((64, 64), (96, 64))


def kernels(engine):
    """Layer types of what OpenVINO compiled, with the kernels that run them."""
    (compiled,) = engine.compiled_models
    found = set()
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        found.add((info["layerType"].value, info["primitiveType"].value))
    return found


@pytest.mark.slow_cases("emoji-unet-buckets")
@pytest.mark.parametrize("buckets", [(), BUCKETS], ids=["any size", "buckets"])
@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("model", ["emoji", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd1", "sd2"))])
def test_pytorchs_numbers_in_fp32(open_engine, feeds_for, torch_outputs, rms, model, component, buckets):
    with open_engine(model, component, buckets=buckets) as engine:
        feeds = feeds_for(engine)
        outputs = run_checked(engine, feeds, component)
        kinds = kernels(engine)
    for name, expected in torch_outputs(model, component, feeds).items():
        assert outputs[name].shape == expected.shape
        assert outputs[name].dtype == np.float32
        assert rms(outputs[name], expected) <= gates_for("fp32").relative_rms
    assert not any("bf16" in kernel for _, kernel in kinds)  # OpenVINO would, left alone


@pytest.mark.slow_cases("unet-*", "vae_encoder-*")
@pytest.mark.parametrize(
    ("precision", "native"),
    [
        *((precision, True) for precision in ("bf16", "fp16", "int8-weights", "int4-weights")),
        ("int8-weights", False),
        *(pytest.param(precision, False, marks=pytest.mark.slow) for precision in ("bf16", "fp16", "int4-weights")),
    ],
)
@pytest.mark.parametrize("component", COMPONENTS)
def test_other_precisions_are_near(open_engine, feeds_for, torch_outputs, rms, precision, component, native):
    requires_precision("openvino", precision)
    with open_engine("emoji", component, precision, native=native) as engine:
        feeds = feeds_for(engine)
        outputs = engine.run(feeds)
    for name, expected in torch_outputs("emoji", component, feeds).items():
        assert 1e-5 < rms(outputs[name], expected) < gates_for(precision).relative_rms


@pytest.mark.parametrize(
    ("feature", "wider", "precision", "words"),
    [
        ("amx_bf16", None, "bf16", ("avx512_amx", "bf16")),
        ("avx512_bf16", "amx_bf16", "bf16", ("avx512", "bf16")),
        ("avx512f", None, "fp32", ("avx512", "f32")),
        ("avx2", "avx512f", "fp32", ("avx2", "f32")),
    ],
)
def test_the_widest_instructions_of_the_processor_run(open_engine, feeds_for, feature, wider, precision, words):
    """A precision runs in the kernels of its own instructions, never emulated in wider floats."""
    features = machine_facts().features
    if feature not in features:
        pytest.skip(f"this processor has no {feature}")
    if wider in features:
        pytest.skip(f"this processor has {wider}, which OpenVINO uses instead of {feature}")
    requires_precision("openvino", precision)
    with open_engine("emoji", "unet", precision, buckets=((64, 64),)) as engine:  # of free sizes kernels show no names
        engine.run(feeds_for(engine))
        used = {kernel for kind, kernel in kernels(engine) if kind == "FullyConnected"}
        assert engine.metadata["floats"] == precision
    used -= {"gemm_mlas_f32"}  # its name hides which instructions it chose
    assert used
    assert all(word in kernel for kernel in used for word in words), used


@pytest.mark.slow
def test_weights_of_bf16_are_halves(lowered):
    size = {name: lowered("emoji", "unet", name)[0].with_suffix(".bin").stat().st_size for name in ("fp32", "bf16")}
    assert size["bf16"] < 0.51 * size["fp32"]


@pytest.mark.slow
def test_int8_stays_int8(open_engine, feeds_for):
    """Convolutions and products of the quantized graph run in int8 kernels, from int8 weights on disk."""
    with open_engine("emoji", "unet", "int8", buckets=((64, 64),)) as engine:
        assert np.isfinite(engine.run(feeds_for(engine))["out_sample"]).all()
        found = kernels(engine)
    for kind in ("Convolution", "FullyConnected"):
        used = {kernel for layer, kernel in found if layer == kind}
        assert used
        assert all(kernel.lower().endswith("i8") for kernel in used), used


@pytest.mark.slow_cases("int8-0.3")
@pytest.mark.parametrize(("precision", "part"), [("int8-weights", 0.3), ("int4-weights", 0.2), ("int8", 0.3)])
def test_quantized_weights_are_small_on_disk(lowered, precision, part):
    full, small = (lowered("emoji", "unet", name)[0].with_suffix(".bin") for name in ("fp32", precision))
    assert small.stat().st_size < part * full.stat().st_size


@pytest.mark.parametrize(
    ("precision", "buckets"),
    [("int8-weights", ()), *(pytest.param("int4-weights", some, marks=pytest.mark.slow) for some in ((), BUCKETS))],
)
def test_integer_weights_of_convolutions_stay_in_their_file(
    open_engine, feeds_for, monkeypatch, tmp_path, precision, buckets
):
    """Every call reads them there, of several threads too, and of a model that was compiled before."""
    freed = []
    monkeypatch.setattr(engine_module, "free_at_once", lambda: freed.append(True))
    with open_engine("emoji", "unet", precision, buckets=buckets) as engine:
        assert feed_weights.NOTE not in engine.metadata  # those of emoji are small
        feeds = feeds_for(engine)
        expected = engine.run(feeds)["out_sample"]
    assert freed == [True]
    monkeypatch.setattr(feed_weights, "_SMALLEST", 1)
    for _ in range(2):
        with open_engine("emoji", "unet", precision, buckets=buckets, cache_dir=tmp_path) as engine:
            with ThreadPoolExecutor(3) as threads:
                results = [outputs["out_sample"] for outputs in threads.map(engine.run, [feeds] * 4)]
            assert engine.metadata[feed_weights.NOTE] > 10
            assert len(engine.inputs) == len(feeds)
        assert len(results) == 4
        for result in results:
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("component", ["unet", "vae_decoder"])
def test_any_size_and_batch_without_buckets(open_engine, feeds_for, torch_outputs, rms, monkeypatch, component):
    """One model serves them, but the first size of a small denoiser has its own."""
    monkeypatch.setattr(fixed_sizes, "_MOST", 1)
    with open_engine("emoji", component) as engine:
        for batch, height, width in ((1, 64, 64), (3, 40, 72), (2, 64, 64)):
            feeds = feeds_for(engine, batch, batch=batch, height=height, width=width)
            for name, expected in torch_outputs("emoji", component, feeds).items():
                assert rms(engine.run(feeds)[name], expected) <= 1e-5
        assert len(engine.compiled_models) == (2 if component == "unet" else 1)
        fixed = [not model.input(0).get_partial_shape().is_dynamic for model in engine.compiled_models]
        assert fixed == ([True, False] if component == "unet" else [False])
        said = engine.metadata.get(fixed_sizes.NOTE)
        assert said == ("each of the first 1 sizes" if component == "unet" else None)


def test_a_small_denoiser_that_is_whole_within_a_limit_of_memory_has_one_model(open_engine, feeds_for):
    with open_engine("emoji", "unet", memory=1 << 30, whole=True) as engine:
        engine.run(feeds_for(engine, height=64))
        engine.run(feeds_for(engine, height=96))
        (compiled,) = engine.compiled_models
        assert compiled.input(0).get_partial_shape().is_dynamic
        assert fixed_sizes.NOTE not in engine.metadata


def test_buckets_are_compiled_when_asked_for(open_engine, feeds_for, torch_outputs, rms):
    with open_engine("emoji", "unet", buckets=BUCKETS) as engine:
        assert not engine.compiled_models
        wanted = {}
        for seed, (batch, height) in enumerate([(2, 64), (2, 96), (2, 64), (6, 64), (1, 64)]):
            feeds = feeds_for(engine, seed, batch=batch, height=height)
            got = engine.run(feeds)["out_sample"]
            assert rms(got, torch_outputs("emoji", "unet", feeds)["out_sample"]) <= 1e-5
            wanted[seed] = len(engine.compiled_models)
        # a batch of 6 runs as three of 2; one of 1 does not
        assert list(wanted.values()) == [1, 2, 2, 2, 3]


@pytest.mark.slow
def test_a_warm_up_compiles_every_bucket(open_engine, feeds_for):
    with open_engine("emoji", "unet", buckets=BUCKETS) as engine:
        engine.warm_up(2)
        assert len(engine.compiled_models) == 2
        engine.run(feeds_for(engine, height=96))
        assert len(engine.compiled_models) == 2
        with pytest.raises(InputError, match="got 32x64, expected one of the engine's buckets 64x64, 96x64; export"):
            engine.warm_up(2, [(32, 64)])


def test_a_size_outside_the_buckets_is_refused(open_engine, feeds_for):
    with (
        open_engine("emoji", "unet", buckets=BUCKETS) as engine,
        pytest.raises(
            InputError, match="height and width: got 64x96, expected one of the engine's buckets 64x64, 96x64"
        ),
    ):
        engine.run(feeds_for(engine, height=64, width=96))


@pytest.mark.slow_cases("buckets0-*")
@pytest.mark.slow_cases("buckets1-*")
@pytest.mark.parametrize("hint", ["latency", pytest.param("throughput", marks=pytest.mark.slow)])
@pytest.mark.parametrize("buckets", [(), BUCKETS])
def test_threads_get_their_own_results(open_engine, feeds_for, buckets, hint):
    with open_engine("emoji", "unet", buckets=buckets, hint=hint) as engine:
        feeds = [feeds_for(engine, seed, height=64 if seed % 2 else 96) for seed in range(6)]
        expected = [engine.run(each)["out_sample"] for each in feeds]
        results = {}
        start = threading.Barrier(len(feeds))

        def work(index):
            start.wait()
            results[index] = [engine.run(feeds[index])["out_sample"] for _ in range(3)]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(feeds))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, wanted in enumerate(expected):
        for got in results[index]:
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_results_belong_to_the_caller(open_engine, feeds_for):
    with open_engine("emoji", "unet") as engine:
        first, second = (engine.run(feeds_for(engine, seed))["out_sample"] for seed in (0, 1))
        kept = first.copy()
        again = engine.run(feeds_for(engine, 2))["out_sample"]
        assert not np.shares_memory(first, second)
        assert not np.shares_memory(first, again)
    np.testing.assert_array_equal(first, kept)  # not written over, and alive after the engine


def test_feeds_may_be_views_and_stay_as_they_are(open_engine, feeds_for):
    with open_engine("emoji", "unet") as engine:
        feeds = feeds_for(engine)
        turned = np.asfortranarray(feeds["sample"])
        before = turned.copy()
        got = engine.run({**feeds, "sample": turned})["out_sample"]
        np.testing.assert_array_equal(turned, before)
        np.testing.assert_array_equal(got, engine.run(feeds)["out_sample"])


def test_a_fraction_of_a_timestep_is_not_cut_off(open_engine, feeds_for, torch_outputs, rms):
    with open_engine("emoji", "unet") as engine:
        feeds = {**feeds_for(engine), "timestep": np.array([0.5], np.float32)}
        got = engine.run(feeds)["out_sample"]
        expected = torch_outputs("emoji", "unet", feeds)["out_sample"]
        whole = torch_outputs("emoji", "unet", {**feeds, "timestep": np.array([0.0], np.float32)})["out_sample"]
    assert rms(got, expected) <= 1e-5 < 1e-3 < rms(whole, expected)


@pytest.mark.slow_cases("True-buckets1")
@pytest.mark.slow_cases("True-buckets0")
@pytest.mark.parametrize("buckets", [(), ((64, 64),)])
@pytest.mark.parametrize("native", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_models_are_kept_between_runs(open_engine, feeds_for, tmp_path, buckets, native):
    """Without their weights, unless our own kernel computes something (long sequences, and any that may be long)."""
    results = []
    swapped = native and attention_library() is not None and not buckets
    for loaded in (False, True):
        with open_engine("emoji", "unet", buckets=buckets, cache_dir=tmp_path, native=native) as engine:
            results.append(engine.run(feeds_for(engine))["out_sample"])
            (compiled,) = engine.compiled_models
            assert compiled.get_property("LOADED_FROM_CACHE") == loaded
    np.testing.assert_array_equal(*results)
    blobs = list(tmp_path.glob("*.blob"))
    assert len(blobs) == 1
    assert (blobs[0].stat().st_size < 5 << 20) == (not swapped)


def test_options_reach_openvino(open_engine):
    with open_engine("emoji", "text_encoder", threads=1, hint="throughput") as engine:
        (compiled,) = engine.compiled_models
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert "THROUGHPUT" in str(compiled.get_property("PERFORMANCE_HINT"))


def test_the_device_that_openvino_chooses(open_engine, feeds_for, torch_outputs, rms):
    with open_engine("emoji", "text_encoder", device="auto") as engine:
        feeds = feeds_for(engine)
        expected = torch_outputs("emoji", "text_encoder", feeds)["last_hidden_state"]
        assert rms(engine.run(feeds)["last_hidden_state"], expected) <= 1e-5


def test_devices_and_precisions():
    assert devices.devices()[0] == "cpu"
    assert devices.devices()[-1] == "auto"
    assert {"fp32", "int8-weights", "int4-weights"} <= set(devices.precisions("cpu"))
    capabilities = devices.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert ("bf16" in devices.precisions("cpu")) == ("BF16" in capabilities)


def test_a_device_that_is_not_there(open_engine):
    with pytest.raises(EngineError, match=r"device: got 'gpu:7', expected one of cpu, .*needs its driver installed"):
        open_engine("emoji", "text_encoder", device="gpu:7")


def test_a_precision_that_the_device_does_not_have(open_engine, monkeypatch):
    monkeypatch.setattr(devices, "_capabilities", lambda _name: {"FP32", "INT8"})
    assert devices.precisions("cpu") == ("fp32", "int8", "int8-weights", "int4-weights")
    with pytest.raises(
        EngineError, match="precision: got 'bf16', expected one of fp32, int8, .*'cpu' supports natively"
    ):
        open_engine("emoji", "text_encoder", "bf16")


@pytest.mark.parametrize("damage", ["garbage", "newer", "no text"])
def test_a_file_that_openvino_refuses(lowered, tmp_path, damage):
    path, spec = lowered("emoji", "text_encoder")
    for file in (path, path.with_suffix(".bin")):
        shutil.copy(file, tmp_path)
    copy = tmp_path / path.name
    text = copy.read_text()
    assert 'version="11"' in text
    copy.write_text("<net>" if damage == "garbage" else text.replace('version="opset', 'version="opset99', 1))
    if damage == "no text":
        copy.write_bytes(text.encode().replace(b'version="opset', b'version="\xff', 1))
    built = replace(spec, built_with={"openvino": "2031.1.0"})
    with pytest.raises(
        EngineError, match=r"(?s)OpenVINO \S+ cannot open it on CPU \(built with openvino 2031.1.0\).*build"
    ):
        OpenVinoEngine(copy, built, EngineOptions(device="cpu"))


def test_only_the_weights_of_the_manifest_and_only_xml(lowered, tmp_path):
    """OpenVINO itself takes a graph of another format by content, with the weights that it names."""
    path, spec = lowered("emoji", "text_encoder")
    with pytest.raises(BundleError, match=r"its weights, openvino_model\.bin, are not listed in the manifest; do not"):
        OpenVinoEngine(path, replace(spec, files=spec.files[:1]), EngineOptions(device="cpu"))
    graph = tmp_path / path.name
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, outputs)), graph)
    core().read_model(graph)
    graph.with_suffix(".bin").touch()
    with pytest.raises(BundleError, match="got another format, expected XML as OpenVINO writes it; do not trust"):
        OpenVinoEngine(graph, spec, EngineOptions(device="cpu"))


def test_a_failure_names_the_shapes(open_engine, feeds_for):
    """The runtime checks feeds before; what it cannot know is said by OpenVINO."""
    with open_engine("emoji", "unet") as engine:
        feeds = feeds_for(engine)
        feeds["encoder_hidden_states"] = feeds["encoder_hidden_states"][:, :, :-1]
        with pytest.raises(EngineError, match=r"OpenVINO \S+ failed on inputs of shape .*\(2, 77, 127\)"):
            engine.run(feeds)


def test_nothing_is_reported_to_anybody():
    """The import of the engine does not load the vendor's telemetry, nor start its threads."""
    code = (
        "import sys, threading, diffoundry.targets.openvino.run.engine, openvino.tools.ovc.telemetry_utils as utils;"
        "print(utils.tm.__name__, 'openvino_telemetry' in sys.modules, threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False", "1"]

"""The kernel inside OpenVINO: swapped in where it fits, the same answers as OpenVINO's own attention."""

import concurrent.futures
from dataclasses import replace

import numpy as np
import pytest

from diffoundry.runtime.native import attention_library
from diffoundry.runtime.native.measured import MeasuredChoices, Timing

vendor = pytest.importorskip("diffoundry.targets.openvino.import_openvino", reason="no OpenVINO")

from diffoundry.targets.openvino.rewrites.widen_heads import widen_heads  # noqa: E402
from diffoundry.targets.openvino.run import choose_attention, native_attention  # noqa: E402  # need what may be missing
from diffoundry.targets.openvino.run.choose_attention import AttentionChooser, measure_attention  # noqa: E402
from diffoundry.targets.openvino.run.native_attention import (  # noqa: E402
    AttentionSize,
    attention_lengths,
    use_native_attention,
)

ov, ops = vendor.ov, vendor.ops

HINTS = {"fp32": "f32", "bf16": "bf16"}
LONG = native_attention._LONG


@pytest.fixture(autouse=True)
def any_length(monkeypatch):
    """Short attention is swapped in fp32, too, so that the tests are quick."""
    monkeypatch.setattr(native_attention, "_LONG", 1)


@pytest.fixture
def library(installed):
    found = attention_library()
    if found is None:
        pytest.skip("no extension for this OpenVINO")
    return found


@pytest.fixture
def core(library):
    core = ov.Core()
    core.add_extension(str(library))
    return core


@pytest.fixture(params=["fp32", "bf16"])
def floats(request, core):
    if request.param.upper() not in ("FP32", *core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
        pytest.skip(f"the CPU has no {request.param}")
    return request.param


def attention_model(
    queries=256, keys=None, heads=4, width=40, *, batch=2, mask=None, causal=False, scale=None, shape=None
):
    """Projections, attention and the projection of its output, as in a UNet's transformer block."""
    rng, channels = np.random.default_rng(0), heads * width
    x = ops.parameter(shape or [batch, queries, channels], np.float32, name="x")
    inputs = [x] if keys is None else [x, ops.parameter([batch, keys, 48], np.float32, name="context")]

    def project(value, amount, inner):
        weight = rng.standard_normal((channels, inner), np.float32) * np.float32(amount / inner**0.5)
        return ops.matmul(value, ops.constant(weight), False, True)

    def split(value):
        return ops.transpose(ops.reshape(value, [0, 0, heads, width], True), [0, 2, 1, 3])

    inner = channels if keys is None else 48
    q, k, v = project(x, 1.5, channels), project(inputs[-1], 1.5, inner), project(inputs[-1], 1.0, inner)
    extra = [] if mask is None and scale is None else [ops.constant(np.float32(0) if mask is None else mask)]
    extra += [] if scale is None else [ops.constant(np.float32(scale))]
    attention = ops.scaled_dot_product_attention(split(q), split(k), split(v), *extra, causal=causal)
    joined = ops.reshape(ops.transpose(attention, [0, 2, 1, 3]), [0, 0, channels], True)
    return ov.Model([ops.result(project(joined, 1.0, channels))], inputs, "attention")


def types(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def feeds(model, seed=1):
    rng = np.random.default_rng(seed)
    return {value.any_name: rng.standard_normal(list(value.shape), np.float32) for value in model.inputs}


def run(core, model, feeds, floats):
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": HINTS[floats]})
    return compiled(feeds)[0]


def assert_same(core, make, floats, count=1):
    """The model gives the same before and after; in bf16, is not further from fp32 than OpenVINO's own."""
    given = feeds(make())
    exact = run(core, make(), given, "fp32")
    model = make()
    assert use_native_attention(model, attention_library(), floats=floats) == count
    ours = run(core, model, given, floats)
    if floats == "fp32":
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=2e-5)
    else:
        theirs = run(core, make(), given, floats)
        assert np.std(ours - exact) <= 1.1 * np.std(theirs - exact)


@pytest.mark.parametrize(
    "options",
    [{}, {"width": 80}, {"width": 64, "heads": 2}, {"keys": 77}, {"scale": 0.3}, {"queries": 250, "width": 8}],
    ids=str,
)
def test_same_as_openvino(core, floats, options):
    assert_same(core, lambda: attention_model(**options), floats)


def test_supported_attention_is_replaced(library):
    model = attention_model()
    assert use_native_attention(model, library, floats="bf16") == 1
    found = types(model)
    assert found.count("DiffoundryAttention") == 1
    assert found.count("Convert") == 4
    assert not {"ScaledDotProductAttention", "Transpose", "Reshape"} & set(found)
    node = next(node for node in model.get_ops() if node.get_type_name() == "DiffoundryAttention")
    assert node.get_attributes() == {"heads": 4, "scale": pytest.approx(40**-0.5)}
    assert node.get_element_type() == ov.Type.bf16


@pytest.mark.parametrize(
    "options",
    [
        {"mask": np.zeros((256, 256), np.float32)},
        {"mask": np.float32(-3)},
        {"causal": True},
        {"width": 12},
        {"width": 264, "heads": 1},
    ],
    ids=["mask", "bias", "causal", "odd width", "wide"],
)
def test_unsupported_attention_stays(library, options):
    model = attention_model(**options)
    before = types(model)
    assert use_native_attention(model, library, floats="bf16") == 0
    assert types(model) == before


def test_short_attention_stays_in_fp32(library, monkeypatch):
    monkeypatch.setattr(native_attention, "_LONG", LONG)
    assert use_native_attention(attention_model(queries=1024), library, floats="fp32") == 0
    assert use_native_attention(attention_model(queries=4096), library, floats="fp32") == 1
    assert use_native_attention(attention_model(shape=[-1, -1, 160]), library, floats="fp32") == 1
    assert use_native_attention(attention_model(queries=1024), library, floats="bf16") == 1


def test_sizes_known_only_when_it_runs(core, library, floats):
    model = attention_model(shape=[-1, -1, 160])
    assert use_native_attention(model, library, floats=floats) == 1
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": HINTS[floats]})
    for tokens in (64, 33, 200):
        given = {"x": np.random.default_rng(tokens).standard_normal((3, tokens, 160), np.float32)}
        exact = run(core, attention_model(shape=[-1, -1, 160]), given, "fp32")
        assert abs(compiled(given)[0] - exact).max() < (2e-5 if floats == "fp32" else 0.06)


@pytest.mark.parametrize(
    ("stored", "narrow", "widths"),
    [
        ("floats", True, [160, 160, 160]),
        ("halves", True, [160, 160, 160]),
        ("floats", False, [256, 256, 192]),
    ],
)
def test_widened_heads(core, library, floats, tmp_path, monkeypatch, stored, narrow, widths):
    """The zeros in them are taken out again, and where that cannot be, key and value have different widths."""
    if not narrow:
        monkeypatch.setattr(native_attention, "_narrow", lambda _attention: None)
    written = attention_model()
    assert widen_heads(written) == 1
    ov.save_model(written, tmp_path / "model.xml", compress_to_fp16=stored == "halves")
    model = core.read_model(tmp_path / "model.xml")
    use_native_attention(model, library, floats=floats)
    node = next(node for node in model.get_ops() if node.get_type_name() == "DiffoundryAttention")
    assert [node.get_input_shape(index)[2] for index in range(3)] == widths
    assert_same(core, lambda: core.read_model(tmp_path / "model.xml"), floats)


def test_compiled_blob_is_read_back(core, library, tmp_path, floats):
    model = attention_model(queries=1024)
    use_native_attention(model, library, floats=floats)
    options = {"INFERENCE_PRECISION_HINT": HINTS[floats], "CACHE_DIR": str(tmp_path)}
    first, second = (core.compile_model(model, "CPU", options) for _ in range(2))
    assert second.get_property("LOADED_FROM_CACHE")
    given = feeds(model)
    np.testing.assert_array_equal(first(given)[0], second(given)[0])


def test_requests_at_the_same_time(core, library, floats):
    model = attention_model(queries=1024)
    given = [feeds(model, seed=seed) for seed in range(6)]
    exact = [run(core, model, one, "fp32") for one in given]
    use_native_attention(model, library, floats=floats)
    options = {"INFERENCE_PRECISION_HINT": HINTS[floats], "NUM_STREAMS": "2"}
    compiled = core.compile_model(model, "CPU", options)
    requests = [compiled.create_infer_request() for _ in given]
    with concurrent.futures.ThreadPoolExecutor(len(given)) as pool:
        results = list(pool.map(lambda pair: pair[0].infer(pair[1])[0].copy(), zip(requests, given, strict=True)))
    for ours, theirs in zip(results, exact, strict=True):
        assert abs(ours - theirs).max() < (2e-5 if floats == "fp32" else 0.06)


def test_inputs_that_do_not_belong_together(core, library):
    model = attention_model(shape=[-1, -1, 160], keys=77)
    use_native_attention(model, library, floats="fp32")
    model.reshape({"x": [-1, -1, 160], "context": [-1, 77, 48]})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wrong = {"x": np.zeros((3, 9, 160), np.float32), "context": np.zeros((2, 77, 48), np.float32)}
    with pytest.raises(RuntimeError, match="expected one batch, K and V of one length"):
        compiled(wrong)


@pytest.mark.slow
def test_unet_of_the_embedded_model(core, library, floats, emoji_bundle):
    path = emoji_bundle / "unet/model.onnx"
    rng = np.random.default_rng(0)
    given = {
        "sample": rng.standard_normal((2, 4, 8, 8), np.float32),
        "timestep": np.array([500], np.float32),
        "encoder_hidden_states": rng.standard_normal((2, 77, 128), np.float32),
    }
    exact, theirs = (run(core, ov.convert_model(path), given, name) for name in ("fp32", floats))
    model = ov.convert_model(path)
    assert use_native_attention(model, library, floats=floats) == 20
    ours = run(core, model, given, floats)
    bound = 1e-4 * np.std(exact) if floats == "fp32" else 1.15 * np.std(theirs - exact)
    assert np.std(ours - exact) <= bound


SIZE = AttentionSize(queries=300, keys=77, heads=4, width=64, value_width=64, narrow=(40, 48))


@pytest.fixture
def chooser(library, tmp_path, monkeypatch):
    """Factory: a chooser whose measurements are those of a table, in a cache of its own."""
    made = MeasuredChoices({"cpu": "x"}, tmp_path)
    monkeypatch.setattr(choose_attention, "choices", lambda _library: made)

    def make(mode="measured", timing=None, floats="fp32"):
        measured = []

        def measure(size, _chooser):
            measured.append(size)
            return timing or Timing(native=1.0 if size.keys > 1000 else 3.0, engine=2.0)

        chosen = AttentionChooser(mode=mode, floats=floats, threads=1, library=library, measure=measure)
        return chosen, measured

    return make


def test_each_size_is_measured_once_and_similar_ones_are_one(chooser):
    choose, measured = chooser()
    assert not choose(SIZE)
    assert not choose(replace(SIZE, queries=500, keys=65))
    assert choose(replace(SIZE, keys=5000))
    assert choose(replace(SIZE, queries=9000, keys=4096))
    assert choose(replace(SIZE, queries=1024, keys=3000))
    assert [(size.queries, size.keys) for size in measured] == [(512, 128), (512, 4096), (1024, 4096)]


def test_modes_and_unknown_lengths_measure_nothing(chooser):
    fails = Timing(native=9.0, engine=1.0)
    for mode, size, floats, wanted in (
        ("always", SIZE, "fp32", True),
        ("never", SIZE, "bf16", False),
        ("fixed", replace(SIZE, queries=0), "fp32", False),
        ("fixed", replace(SIZE, queries=0), "bf16", True),
        ("measured", replace(SIZE, queries=None), "fp32", True),
    ):
        choose, measured = chooser(mode, fails, floats)
        assert choose(size) is wanted
        assert not measured


def test_a_choice_changes_single_attentions(library, core):
    model = attention_model()
    assert use_native_attention(model, library, floats="fp32", choose=lambda size: size.keys != 256) == 0
    assert use_native_attention(model, library, floats="fp32", choose=lambda size: size.narrow == (40, 40)) == 1


def test_open_lengths_are_those_of_the_judged_model(library):
    model = attention_model(shape=[-1, -1, 160])
    (name,) = attention_lengths(model)
    seen = []
    use_native_attention(model, library, floats="fp32", choose=seen.append, lengths={name: (9, 8)})
    assert [(size.queries, size.keys) for size in seen] == [(9, 8)]


def test_both_ways_of_a_measurement_compute_the_same(library, core, floats, monkeypatch):
    """The models that are timed are one attention, in our kernel and in OpenVINO's."""
    monkeypatch.setattr(choose_attention, "core", lambda: core)
    size = replace(SIZE, narrow=(64, 64))
    results = []

    def keep(*runs):
        results.extend(runs)
        return Timing(native=1.0, engine=2.0)

    monkeypatch.setattr(choose_attention, "time_in_turns", keep)
    monkeypatch.setattr(choose_attention, "_runner", lambda model: model)
    chooser = AttentionChooser(mode="measured", floats=floats, threads=1, library=library, measure=measure_attention)
    assert measure_attention(size, chooser).native_wins
    noise = np.random.default_rng(0)
    inputs = [noise.standard_normal(list(value.shape), np.float32) for value in results[0].inputs]
    native, engine = (model(inputs)[0] for model in results)
    np.testing.assert_allclose(native, engine, rtol=0, atol=2e-5 if floats == "fp32" else 2e-2)


def test_a_measurement_runs(library, core, monkeypatch):
    monkeypatch.setattr(choose_attention, "core", lambda: core)
    chooser = AttentionChooser(mode="measured", floats="fp32", threads=1, library=library, measure=measure_attention)
    timing = measure_attention(replace(SIZE, queries=16, keys=16), chooser)
    assert timing.native > 0
    assert timing.engine > 0

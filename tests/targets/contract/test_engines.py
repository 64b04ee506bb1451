"""The contract of `runtime.engines.protocol.Engine`, held by every target: see CONTRIBUTING.md."""

import threading

import numpy as np
import pytest
from engine_graphs import GRAPHS, LAYERS, expected, weight

from diffoundry.runtime.engines.protocol import AdapterWeights, run_checked
from diffoundry.runtime.errors import EngineError, InputError

TOLERANCE = 2e-5
"""Relative to the largest value: fp32 sums in another order, and Winograd's transforms."""


def size_of(dim, batch):
    """A number for a dimension of an input."""
    known = {"batch": batch, "sequence": 77, "height/8": 2, "width/8": 2}
    return dim if isinstance(dim, int) else known[dim]


def make_feeds(inputs, seed=0, batch=2):
    """Seeded inputs for the tensors of an engine."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for spec in inputs:
        shape = [size_of(dim, batch) for dim in spec.shape]
        if spec.dtype == "int32":
            feeds[spec.name] = generator.integers(0, 9, shape).astype(np.int32)
        else:
            feeds[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
    return feeds


def assert_near(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].shape == array.shape
        assert got[name].dtype == array.dtype
        np.testing.assert_allclose(got[name], array, rtol=0, atol=TOLERANCE * max(1.0, np.abs(array).max(initial=0.0)))


@pytest.mark.parametrize("graph", GRAPHS)
def test_names_shapes_types_and_values_are_those_of_the_graph(backend, graph):
    with backend.open(graph) as engine:
        feeds = make_feeds(engine.inputs)
        outputs = run_checked(engine, feeds, "unet")
        wanted = expected(graph, feeds)
        assert [spec.name for spec in engine.outputs] == list(wanted)
        assert [spec.dtype for spec in engine.outputs] == [array.dtype.name for array in wanted.values()]
        assert_near(outputs, wanted)


@pytest.mark.parametrize("graph", GRAPHS)
def test_inputs_and_outputs_are_those_of_the_manifest(backend, graph):
    _, spec = backend.lower(graph)
    with backend.open(graph) as engine:
        assert engine.inputs == spec.inputs
        assert engine.outputs == spec.outputs


@pytest.mark.parametrize("graph", ["linear", "attention"])
def test_a_free_batch_takes_any_number_of_rows(backend, graph):
    with backend.open(graph) as engine:
        if engine.inputs[0].shape[0] != "batch":
            rows = engine.inputs[0].shape[0]  # a target of fixed sizes: other numbers are refused
            feeds = {"x": np.zeros((rows + 1, *engine.inputs[0].shape[1:]), np.float32)}
            with pytest.raises(InputError, match=rf"got shape \({rows + 1}, .* expected \({rows}, "):
                run_checked(engine, feeds, "unet")
            return
        for rows in (1, 3, 2):
            feeds = make_feeds(engine.inputs, batch=rows)
            assert_near(run_checked(engine, feeds, "unet"), expected(graph, feeds))


def test_a_fixed_batch_takes_no_other(backend):
    with backend.open("linear", batch=2) as engine:
        feeds = make_feeds(engine.inputs)
        assert feeds["x"].shape == (2, 6)
        assert_near(run_checked(engine, feeds, "unet"), expected("linear", feeds))
        with pytest.raises(InputError, match=r"got shape \(3, 6\), expected \(2, 6\)"):
            run_checked(engine, {"x": np.zeros((3, 6), np.float32)}, "unet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda feeds: {"sample": feeds["sample"]}, r"missing \['timestep'\], unknown \[\]"),
        (lambda feeds: {**feeds, "mask": feeds["sample"]}, r"missing \[\], unknown \['mask'\]"),
        (
            lambda feeds: {**feeds, "sample": feeds["sample"].astype(np.float64)},
            r"input 'sample': got dtype float64, expected float32",
        ),
        (
            lambda feeds: {**feeds, "timestep": feeds["timestep"].astype(np.int64)},
            r"input 'timestep': got dtype int64, expected float32",
        ),
        (
            lambda feeds: {**feeds, "sample": feeds["sample"][0]},
            r"input 'sample': got shape \(3,\), expected \(.*, 3\)",
        ),
        (
            lambda feeds: {**feeds, "sample": feeds["sample"][:, :2]},
            r"input 'sample': got shape \(2, 2\), expected \(.*, 3\)",
        ),
    ],
    ids=["missing", "unknown", "dtype", "integer", "rank", "size"],
)
def test_wrong_feeds_are_refused_by_name(backend, change, message):
    with backend.open("several") as engine:
        feeds = make_feeds(engine.inputs)
        with pytest.raises(InputError, match=r"component 'unet'.*" + message):
            run_checked(engine, change(feeds), "unet")
        assert_near(run_checked(engine, feeds, "unet"), expected("several", feeds))


@pytest.mark.parametrize("graph", ["image", "several"])
def test_feeds_may_be_views_and_are_not_changed(backend, graph):
    with backend.open(graph) as engine:
        feeds = make_feeds(engine.inputs)
        turned = {**feeds, "sample": np.asfortranarray(feeds["sample"])}
        turned["sample"].flags.writeable = False
        kept = turned["sample"].copy()
        assert_near(engine.run(turned), engine.run(feeds))
        np.testing.assert_array_equal(turned["sample"], kept)


@pytest.mark.parametrize("graph", ["linear", "image"])
def test_outputs_belong_to_the_caller(backend, graph):
    with backend.open(graph) as engine:
        first = engine.run(make_feeds(engine.inputs, seed=1))
        kept = {name: array.copy() for name, array in first.items()}
        second = engine.run(make_feeds(engine.inputs, seed=2))
        for name, array in first.items():
            assert not np.shares_memory(array, second[name])
            np.testing.assert_array_equal(array, kept[name])
            assert array.flags.writeable
            assert np.abs(array - second[name]).max() > 1e-3
    for name, array in first.items():  # alive after the engine
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize("graph", ["image", "several"])
def test_several_threads_get_what_one_thread_gets(backend, graph):
    with backend.open(graph) as engine:
        feeds = [make_feeds(engine.inputs, seed) for seed in range(4)]
        serial = [engine.run(each) for each in feeds]
        results, failures, start = {}, [], threading.Barrier(len(feeds))

        def work(index):
            try:
                start.wait(30)
                results[index] = [engine.run(feeds[index]) for _ in range(5)]
            except Exception as error:  # noqa: BLE001  # shown below: a thread's own is lost
                failures.append(error)

        threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(feeds))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert failures == []
    for index, wanted in enumerate(serial):
        for got in results[index]:
            assert_near(got, wanted)


def test_a_closed_engine_says_so_and_closes_twice(backend):
    engine = backend.open("linear")
    feeds = make_feeds(engine.inputs)
    engine.run(feeds)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=r"engine .*: got a call after it was closed, .*open the engine again"):
        run_checked(engine, feeds, "unet")


def test_an_engine_is_closed_where_its_block_ends(backend):
    with backend.open("linear") as engine:
        feeds = make_feeds(engine.inputs)
    with pytest.raises(EngineError, match="after it was closed"):
        engine.run(feeds)


def test_two_engines_of_one_file_do_not_disturb_each_other(backend):
    with backend.open("linear") as first, backend.open("linear") as second:
        feeds = make_feeds(first.inputs)
        wanted = first.run(feeds)
        second.run(make_feeds(second.inputs, seed=1))
        second.close()
        assert_near(first.run(feeds), wanted)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("graph", ["linear", "image", "attention", "several"])
def test_a_nan_passes_through_its_own_row_only(backend, graph):
    with backend.open(graph) as engine:
        feeds = make_feeds(engine.inputs)
        name = "sample" if "sample" in feeds else "x"
        feeds[name][(0,) * feeds[name].ndim] = np.nan
        outputs = run_checked(engine, feeds, "unet")
        for key, wanted in expected(graph, feeds).items():
            assert np.isnan(wanted[0]).any()
            assert np.isnan(outputs[key][0]).any()
            assert np.isfinite(outputs[key][1:]).all()
            assert_near({key: outputs[key][1:]}, {key: wanted[1:]})
        clean = make_feeds(engine.inputs, seed=3)  # the engine keeps nothing of it
        assert_near(run_checked(engine, clean, "unet"), expected(graph, clean))


@pytest.fixture
def adapted(backend):
    """Factory: a LoRA of rank 2 for the linear layer, or two rows for the table, and the weights that they make."""

    def make(graph, seed=5):
        bundle, spec = backend.lower(graph)
        if spec.adapters is None:
            assert spec.metadata["adapters"], "the manifest says why"
            pytest.skip(f"target {backend.plugin.name!r} takes no adapters")
        module, _ = LAYERS[graph]
        generator = np.random.default_rng(seed)
        assert dict(spec.adapters.layers) == {module: (4, 6)}
        down, up = (generator.standard_normal(shape).astype(np.float32) for shape in ((6, 2), (2, 4)))
        arrays = {f"{module}.lora_A": down, f"{module}.lora_B": up}
        changed = {"w": weight(graph, "w") + down @ up}
        return AdapterWeights(graph=bundle / spec.adapters.files[0], arrays=arrays), changed

    return make


def test_adapters_change_the_result_and_go_without_a_trace(backend, adapted):
    lora, weights = adapted("linear")
    other, other_weights = adapted("linear", seed=6)
    with backend.open("linear") as engine:
        feeds = make_feeds(engine.inputs)
        before = engine.run(feeds)
        engine.set_adapters(lora)
        assert_near(run_checked(engine, feeds, "unet"), expected("linear", feeds, weights))
        engine.set_adapters(other)
        assert_near(run_checked(engine, feeds, "unet"), expected("linear", feeds, other_weights))
        engine.set_adapters(None)
        np.testing.assert_array_equal(engine.run(feeds)["y"], before["y"])
        engine.close()
        with pytest.raises(EngineError, match="after it was closed"):
            engine.set_adapters(lora)


@pytest.mark.parametrize("keep_both", [True, False])
def test_an_engine_may_begin_with_adapters(backend, adapted, keep_both):
    lora, weights = adapted("linear")
    with backend.open("linear", adapters=lora, keep_both=keep_both) as engine:
        feeds = make_feeds(engine.inputs)
        assert {spec.name for spec in engine.inputs} == {"x"}
        assert_near(run_checked(engine, feeds, "unet"), expected("linear", feeds, weights))
        engine.set_adapters(None)
        assert_near(run_checked(engine, feeds, "unet"), expected("linear", feeds))


def test_a_table_of_tokens_takes_further_rows(backend):
    bundle, spec = backend.lower("tokens")
    if spec.adapters is None or spec.adapters.table is None:
        pytest.skip(f"target {backend.plugin.name!r} adds no rows to a table")
    module, _ = LAYERS["tokens"]
    assert (spec.adapters.table, spec.adapters.vocabulary, spec.adapters.width) == (module, 9, 3)
    rows = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    lora = AdapterWeights(graph=bundle / spec.adapters.files[0], arrays={f"{module}.rows": rows})
    with backend.open("tokens", adapters=lora) as engine:
        feeds = make_feeds(engine.inputs)
        feeds["input_ids"][0, :3] = [8, 9, 10]
        table = np.concatenate([weight("tokens", "table"), rows])
        np.testing.assert_array_equal(engine.run(feeds)["y"], table[feeds["input_ids"]])

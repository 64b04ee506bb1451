"""Engines behind a bundle: rows in turns, dtypes, the choice among engines, and the checks on feeds."""

import re
import threading
import types
from dataclasses import replace

import numpy as np
import pytest
from small_bundle import write_small_bundle

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import DimSpec, EngineSpec, TensorSpec
from diffoundry.runtime.engines.plugins import TargetPlugin
from diffoundry.runtime.engines.protocol import run_checked
from diffoundry.runtime.engines.select import select_engine
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.models.roles import role_of_folder


class _Doubler:
    """An engine that computes 2 * sample + timestep, for a given batch and dtypes, and notes its calls."""

    def __init__(self, batch: int | str, timestep_dtype: str = "float32", float_dtype: str = "float32") -> None:
        self.inputs = (
            TensorSpec(name="sample", dtype=float_dtype, shape=(batch, "n")),
            TensorSpec(name="timestep", dtype=timestep_dtype, shape=(1,)),
        )
        self.outputs = (TensorSpec(name="out", dtype=float_dtype, shape=(batch, "n")),)
        self.rows: list[int] = []

    def run(self, feeds):
        self.rows.append(len(feeds["sample"]))
        return {"out": feeds["sample"] * 2 + feeds["timestep"].astype(feeds["sample"].dtype)}

    def close(self):
        pass


def _components(engine, batch: DimSpec | None = None) -> EngineSession:
    recipe = types.SimpleNamespace(dims={"batch": batch} if batch else {})
    bundle = types.SimpleNamespace(
        components=("unet",), engines=lambda name: (), manifest=types.SimpleNamespace(recipe=recipe)
    )
    components = EngineSession(bundle)
    components._engines["unet"] = engine
    return components


@pytest.mark.parametrize(
    ("batch", "dim", "rows", "calls"),
    [
        ("batch", None, 5, [5]),
        ("batch", DimSpec(min=1, max=4), 5, [4, 1]),
        ("batch", DimSpec(min=1, max=4), 3, [3]),
        (2, DimSpec(min=2, max=2), 2, [2]),
        (2, DimSpec(min=2, max=2), 5, [2, 2, 2]),
        (2, DimSpec(min=2, max=2), 1, [2]),
        (1, DimSpec(min=1, max=1), 2, [1, 1]),
        (1, DimSpec(min=1, max=1), 1, [1]),
    ],
)
def test_any_number_of_rows_through_any_batch(batch, dim, rows, calls):
    engine = _Doubler(batch)
    sample = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    outputs = _components(engine, dim).run("unet", {"sample": sample, "timestep": np.float32([7])})
    np.testing.assert_array_equal(outputs["out"], sample * 2 + 7)
    assert engine.rows == calls


def test_half_precision_engines_take_and_give_float32():
    engine = _Doubler("batch", float_dtype="float16")
    outputs = _components(engine).run("unet", {"sample": np.ones((1, 3), np.float32), "timestep": np.float32([1])})
    assert outputs["out"].dtype == np.float32


def test_whole_timesteps_pass_as_integers_and_fractions_never():
    components = _components(_Doubler("batch", timestep_dtype="int64"))
    sample = np.ones((1, 3), np.float32)
    assert components.run("unet", {"sample": sample, "timestep": np.float32([999])})["out"][0, 0] == 1001
    with pytest.raises(InputError, match=r"input 'timestep': got 998\.5, expected a whole number"):
        components.run("unet", {"sample": sample, "timestep": np.float32([998.5])})


def test_components_are_opened_side_by_side(monkeypatch):
    """Each waits until all are being opened; the first failure by name is raised."""
    names = ("text_encoder", "unet", "vae_decoder")
    bundle = types.SimpleNamespace(components=names, engines=lambda name: ())
    together = threading.Barrier(len(names), timeout=60)

    def open_one(self, name):
        together.wait()
        if self.broken and name != "text_encoder":
            raise EngineError(f"no {name}")
        return _Doubler("batch")

    monkeypatch.setattr(EngineSession, "_open", open_one)
    components = EngineSession(bundle)
    components.broken = False
    components.open_all()
    assert all(components.engine(name) is components.engine(name) for name in names)
    components = EngineSession(bundle)
    components.broken = True
    with pytest.raises(EngineError, match="no unet"):
        components.open_all(names)


def test_observer_sees_component_feeds_and_seconds():
    components = _components(_Doubler("batch"))
    seen = []
    components.on_call = lambda name, feeds, outputs, seconds: seen.append(
        (name, set(feeds), set(outputs), seconds >= 0)
    )
    components.run("unet", {"sample": np.ones((1, 3), np.float32), "timestep": np.float32([1])})
    assert seen == [("unet", {"sample", "timestep"}, {"out"}, True)]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"sample": np.ones((1, 3), np.float32)}, r"missing \['timestep'\], unknown \[\]"),
        (
            {"sample": np.ones((1, 3), np.float64), "timestep": np.ones(1, np.float32)},
            "input 'sample': got dtype float64, expected float32",
        ),
        (
            {"sample": np.ones((1, 3, 1), np.float32), "timestep": np.ones(1, np.float32)},
            r"input 'sample': got shape \(1, 3, 1\), expected \('batch', 'n'\)",
        ),
        (
            {"sample": np.ones((1, 3), np.float32), "timestep": np.ones(2, np.float32)},
            r"input 'timestep': got shape \(2,\), expected \(1,\)",
        ),
    ],
)
def test_wrong_feeds_are_named(feeds, message):
    with pytest.raises(InputError, match=message):
        run_checked(_Doubler("batch"), feeds, "unet")


def test_a_symbolic_dimension_has_one_value():
    engine = _Doubler("batch")
    engine.inputs = (*engine.inputs, TensorSpec(name="mask", dtype="float32", shape=("batch",)))
    feeds = {"sample": np.ones((2, 3), np.float32), "timestep": np.ones(1, np.float32), "mask": np.ones(3, np.float32)}
    with pytest.raises(InputError, match=r"input 'mask': got shape \(3,\), expected \('batch',\) with \{'batch': 2\}"):
        run_checked(engine, feeds, "unet")


def test_an_engine_without_rows_is_refused():
    engine = _Doubler("batch")
    session = _components(engine)
    session.bundle.root = "x.bundle"
    for inputs in ((), (TensorSpec(name="timestep", dtype="float32", shape=()),)):
        engine.inputs = inputs
        with pytest.raises(EngineError, match=r"bundle x.bundle: an engine has no inputs with rows; export the bundle"):
            session.run("unet", {})


def _engine_spec(target: str, precision: str) -> EngineSpec:
    return EngineSpec(target=target, precision=precision, files=("f",), inputs=(), outputs=())


def test_the_first_engine_that_can_run_is_chosen():
    pytest.importorskip("onnxruntime")
    specs = (_engine_spec("nonesuch", "fp16"), _engine_spec("onnxruntime", "fp32"), _engine_spec("onnxruntime", "fp16"))
    chosen = select_engine("unet", specs)
    assert chosen.spec is specs[1]
    assert chosen.device == "cpu"
    assert chosen.skipped == (
        "nonesuch fp16: no target of this name is installed; install the package that provides 'nonesuch'",
    )
    assert select_engine("unet", specs, "onnxruntime", "fp16").spec is specs[2]


def test_a_precision_that_the_device_lacks_is_passed_over_and_said():
    pytest.importorskip("onnxruntime")
    specs = (_engine_spec("onnxruntime", "bf16"), _engine_spec("onnxruntime", "fp32"))
    chosen = select_engine("unet", specs)
    assert chosen.spec is specs[1]
    assert re.fullmatch(
        r"onnxruntime bf16: the device 'cpu' does not compute in bf16 itself \(it has fp32, .*\)", chosen.skipped[0]
    )
    with pytest.raises(
        EngineError, match="no engine of the bundle can run here. onnxruntime bf16: the device 'cpu' does"
    ):
        select_engine("unet", specs, precision="bf16")


def test_an_engine_that_is_not_built_yet():
    waiting = replace(_engine_spec("onnxruntime", "fp32"), pending="needs a GPU")
    with pytest.raises(EngineError, match=r"onnxruntime fp32: not built yet \(needs a GPU\); run 'diffoundry build'"):
        select_engine("unet", (waiting,))


def test_no_engine_as_asked():
    specs = (_engine_spec("onnxruntime", "fp32"),)
    with pytest.raises(EngineError, match="got no engine for onnxruntime fp16, the bundle holds onnxruntime fp32"):
        select_engine("unet", specs, "onnxruntime", "fp16")


@pytest.mark.parametrize("asked", [{}, {"target": "onnxruntime"}])
def test_no_engine_at_all(asked):
    with pytest.raises(EngineError, match="'unet': the bundle has no engine of it, .*; run 'diffoundry build' on the"):
        select_engine("unet", (), **asked)


def test_no_library_for_the_engine(monkeypatch):
    parts = dict.fromkeys(("summary", "target", "engine", "devices", "precisions"), "")
    plugin = TargetPlugin(name="x", module="no_such_library", extra="spare", **parts)
    monkeypatch.setattr("diffoundry.runtime.engines.select.list_plugins", lambda: (plugin,))
    message = r"x fp32: its library is not installed; install it with: pip install .*\[spare\]'"
    with pytest.raises(EngineError, match=message):
        select_engine("unet", (_engine_spec("x", "fp32"),))


def test_low_memory_closes_what_does_not_run_now(monkeypatch):
    """Components of every step stay open together, without text encoder and VAE."""
    names = ("text_encoder", "unet", "controlnet", "vae_decoder")
    bundle = types.SimpleNamespace(components=names, engines=lambda name: (), manifest=None, role=role_of_folder)
    opened, most = [], []

    class Engine(_Doubler):
        def __init__(self, name):
            super().__init__("batch")
            self.name = name
            opened.append(name)

        def run(self, feeds):
            most.append(tuple(opened))
            return super().run(feeds)

        def close(self):
            opened.remove(self.name)

    monkeypatch.setattr(EngineSession, "_open", lambda self, name: Engine(name))
    feeds = {"sample": np.ones((1, 3), np.float32), "timestep": np.float32([1])}
    components = EngineSession(bundle, low_memory=True)
    components.open_all()
    for name in ("text_encoder", "controlnet", "unet", "controlnet", "unet", "vae_decoder", "text_encoder"):
        components.run(name, feeds)
    both = ("controlnet", "unet")
    assert most == [("text_encoder",), ("controlnet",), both, both, both, ("vae_decoder",), ("text_encoder",)]
    components.close()
    assert not opened


def test_a_library_that_raises_anything_is_one_sentence(tmp_path, monkeypatch):
    """As a target does when options of a manifest are of another kind."""

    def open_engine(path, spec, options):
        height, width = spec.options["buckets"]
        raise AssertionError(path, options, height, width)

    write_small_bundle(tmp_path / "b")
    plugin = types.SimpleNamespace(load=lambda _: open_engine)
    session = EngineSession(Bundle(tmp_path / "b"))
    session.choice("unet").spec.options["buckets"] = [64]
    monkeypatch.setattr("diffoundry.runtime.engines.open_file.find_plugin", lambda _: plugin)
    with pytest.raises(
        EngineError, match=r"onnxruntime cannot open it \(ValueError: not enough values.*its options in"
    ):
        session.engine("unet")

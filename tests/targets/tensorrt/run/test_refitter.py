"""LoRAs in plans: weights are changed in place and changed back, over fakes of TensorRT and CUDA on ONNX Runtime."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_machine import install_fakes
from lora_files import random_lora
from pipeline_pair import diffusers_steps, our_steps

from diffoundry.exporter.add_engines import add_engines
from diffoundry.runtime import load
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.engines.protocol import AdapterWeights
from diffoundry.runtime.errors import BundleError, EngineError
from diffoundry.targets.tensorrt.base_weights import (
    BaseWeight,
    RefitFile,
    adapted_weight,
    read_base_weight,
    read_refit_file,
)
from diffoundry.targets.tensorrt.run.refitter import Refitter

TOLERANCE = {"fp32": 2e-5, "fp16": 2e-2}
"""fp32 as on ONNX Runtime, whose kernels these are; in fp16 the changed weights are rounded once more."""


@pytest.fixture(scope="module")
def built_bundles():
    """Precision and options to the bundle that was built for them; the tests copy it."""
    return {}


@pytest.fixture
def machine(monkeypatch, tmp_path_factory):
    """A machine with a GPU, of fakes: `FakeTrt`, whose plans are built from the real rewritten graphs."""
    return install_fakes(monkeypatch, tmp_path_factory.mktemp("plans"))


@pytest.fixture
def built_here(rtx, machine, exported, tiny_sd_checkpoint, tmp_path, tmp_path_factory, work_here, built_bundles):
    """Factory: a bundle of the tiny checkpoint with plans in a precision, and whatever else it held."""

    def make(precision="fp32", **options):
        key = repr((precision, sorted(options.items())))
        if key not in built_bundles:
            bundle = Path(shutil.copytree(exported(tiny_sd_checkpoint()), tmp_path_factory.mktemp("built") / "b"))
            spec = Variant(
                target="tensorrt-rtx", precision=precision, options={"compute_capabilities": ["sm89"], **options}
            )
            add_engines(bundle, [spec], lambda *_: None, run=work_here)
            built_bundles[key] = bundle
        return Path(shutil.copytree(built_bundles[key], tmp_path / "b"))

    return make


@pytest.mark.slow_cases("fp16")
@pytest.mark.parametrize("precision", TOLERANCE)
def test_every_step_is_diffusers_and_back_is_bit_for_bit(built_here, machine, tiny_sd_checkpoint, tmp_path, precision):
    pytest.importorskip("peft", reason="diffusers loads LoRAs with it")
    bundle = built_here(precision, refit=True)
    path = random_lora(tiny_sd_checkpoint(), tmp_path / "x.safetensors")
    ours = load(bundle, target="tensorrt-rtx", precision=precision)
    before, base = our_steps(ours), diffusers_steps(tiny_sd_checkpoint())
    ours.loras.load(path, scale=0.7)
    with_lora, expected = our_steps(ours), diffusers_steps(tiny_sd_checkpoint(), path, 0.7)
    scale = np.abs(expected).max()
    assert np.abs(before - base).max() / scale < TOLERANCE[precision]
    assert np.abs(with_lora - expected).max() / scale < TOLERANCE[precision]
    assert np.abs(with_lora - before).max() / scale > 0.03
    ours.loras.unload()
    assert np.array_equal(our_steps(ours), before)
    assert len(machine.contexts) == len(ours.session._engines)  # no engine was opened twice
    ours.session.close()
    later = load(bundle, target="tensorrt-rtx", precision=precision)
    later.loras.load(path, scale=0.7)  # before anything is open
    assert np.array_equal(our_steps(later), with_lora)


@pytest.mark.slow
def test_only_what_changes_is_given_and_what_is_combined_with_it(built_here, machine):
    bundle = built_here("fp16", refit=True)
    pipe = load(bundle, target="tensorrt-rtx")
    engine = pipe.session.engine("unet")
    spec = pipe.session.adapters("unet")
    weights = read_refit_file(bundle / spec.files[0])
    first, second = list(weights)[:2]
    names = {weight.layer: name for name, weight in weights.items() if weight.layer}
    assert set(names) == set(spec.layers)
    layer = next(layer for layer in spec.layers if layer.endswith("to_q"))
    width, inside = spec.layers[layer]

    def adapted(layer, out, into):
        a, b = np.ones((into, 2), np.float32), np.ones((2, out), np.float32)
        return AdapterWeights(graph=bundle / spec.files[0], arrays={f"{layer}.lora_A": a, f"{layer}.lora_B": b})

    engine.set_adapters(adapted(layer, width, inside))
    assert machine.refits == [[names[layer]]]
    combined = next(weights[name].layer for name in (first, second) if weights[name].layer)
    out, into, *_ = spec.layers[combined]
    if len(spec.layers[combined]) == 2:
        engine.set_adapters(adapted(combined, out, into))
        assert machine.refits[1] == sorted({names[layer], first, second})  # and the first is as it was built
    count = len(machine.refits)
    engine.set_adapters(None)
    engine.set_adapters(None)
    assert len(machine.refits) == count + 1


def test_when_the_library_refuses_the_old_weights_come_back(built_here, machine, tiny_sd_checkpoint, tmp_path):
    bundle = built_here(refit=True)
    path = random_lora(tiny_sd_checkpoint(), tmp_path / "x.safetensors")
    ours = load(bundle, target="tensorrt-rtx")
    before = our_steps(ours)
    machine.refuses_refit = True
    with pytest.raises(
        EngineError, match=r"\d+ weights: TensorRT for RTX .* refused: .*; build the engine again with --refit"
    ):
        ours.loras.load(path)
    machine.refuses_refit = False
    assert ours.loras.scales == {}
    assert np.array_equal(our_steps(ours), before)


@pytest.mark.parametrize(
    ("precision", "options", "reason"),
    [
        ("fp16", {}, "it was built without --refit"),
        pytest.param("int8-weights", {"refit": True}, "its weights are quantized", marks=pytest.mark.slow),
    ],
)
def test_plans_that_cannot_be_changed_say_why(built_here, tiny_sd_checkpoint, tmp_path, precision, options, reason):
    bundle = built_here(precision, **options)
    ours = load(bundle, target="tensorrt-rtx", precision=precision)
    message = (
        rf"got tensorrt-rtx {precision}, which takes no LoRA or embedding at run time \({reason}\), expected onnxr"
    )
    with pytest.raises(EngineError, match=message):
        ours.loras.load(random_lora(tiny_sd_checkpoint(), tmp_path / "x.safetensors"))


def test_an_embedding_needs_an_engine_whose_table_grows(built_here, tmp_path):
    from safetensors.torch import save_file

    save_file({"<cat>": torch.ones(1, 32)}, tmp_path / "x.safetensors")
    with pytest.raises(EngineError, match="'text_encoder': got an engine whose table of tokens takes no further rows"):
        load(built_here(refit=True), target="tensorrt-rtx").embeddings.load(tmp_path / "x.safetensors")


def test_weights_in_other_files_than_the_manifest_lists(tmp_path):
    weight = BaseWeight(parameter="w", transform="none", dtype="float32", layer="l", file="extra", shape=(4,))
    path = tmp_path / "model.refit.json"
    path.write_text(json.dumps(to_json(RefitFile(weights={"w": weight}))))
    refitter = Refitter(None, None, ("unet/model.refit.json", "unet/model.onnx_data"))
    with pytest.raises(BundleError, match="weight 'w' is in 'extra', which the manifest does not list for it"):
        refitter.change(AdapterWeights(graph=path, arrays={}))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["linear", "transposed", "convolution"])
def test_a_new_weight_is_what_pytorch_makes_of_it(tmp_path, dtype, kind):
    generator = torch.Generator().manual_seed(0)
    shape = (6, 4, 3, 3) if kind == "convolution" else (6, 4)
    weight = torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    down = torch.randn((2, *shape[1:]), generator=generator)
    up = torch.randn((6, 2, *(1 for _ in shape[2:])), generator=generator)
    expected = (weight.float() + torch.einsum("or,r...->o...", up.reshape(6, 2), down)).to(weight.dtype)
    turned = (lambda t: t.T.contiguous()) if kind == "transposed" else (lambda t: t)
    raw = turned(weight)
    (tmp_path / "data").write_bytes(b"12345678" + raw.view(torch.uint8).numpy().tobytes())
    entry = BaseWeight(
        parameter="x.weight",
        transform="transpose" if kind == "transposed" else "none",
        dtype=dtype,
        layer="x",
        file="data",
        offset=8,
        shape=tuple(raw.shape),
    )
    linear = kind != "convolution"
    adapters = {"x.lora_A": (down.T if linear else down).numpy(), "x.lora_B": (up.T if linear else up).numpy()}
    got = adapted_weight(read_base_weight(tmp_path, entry), entry, adapters)
    assert got.shape == tuple(raw.shape)
    ours = torch.from_numpy(got.view(f"i{got.itemsize}")).view(weight.dtype)
    # the order of two sums, which seldom decides where a half is rounded to
    torch.testing.assert_close(ours, turned(expected), rtol=torch.finfo(weight.dtype).eps, atol=1e-6)
    assert (ours == turned(expected)).float().mean() > (0.3 if dtype == "float32" else 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "got format 1, expected 2; build the engine again with --refit"),
        (
            {"weights": {"w": {"parameter": "w", "transform": "none", "dtype": "float32", "file": "../x"}}},
            "has no place",
        ),
        ({"weights": 3}, "cannot be read .* build the engine again"),
    ],
)
def test_a_map_that_cannot_be_used(tmp_path, change, message):
    path = tmp_path / "x.refit.json"
    path.write_text(json.dumps({"format_version": 2, "weights": {}, **change}))
    with pytest.raises(BundleError, match=message):
        read_refit_file(path)


def test_a_file_of_weights_that_is_cut_off(tmp_path):
    (tmp_path / "data").write_bytes(b"1234")
    entry = BaseWeight(parameter="x.weight", transform="none", dtype="float32", file="data", shape=(2,))
    with pytest.raises(BundleError, match=r"data: ends before weight 'x.weight'; the bundle is damaged"):
        read_base_weight(tmp_path, entry)

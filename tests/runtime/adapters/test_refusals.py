"""Refusals: files for other models, other kinds of adapters, engines that take none."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffoundry.runtime import load
from diffoundry.runtime.errors import BundleError, EngineError, InputError


@pytest.fixture(scope="module")
def pipe(opened):
    return opened()


@pytest.fixture
def saved(tmp_path):
    """Factory: a file of these tensors."""

    def save(tensors, metadata=None):
        save_file(dict(tensors), tmp_path / "x.safetensors", metadata)
        return tmp_path / "x.safetensors"

    return save


Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
FITTING = {f"{Q}.lora_A.weight": torch.ones(2, 32), f"{Q}.lora_B.weight": torch.ones(32, 2)}

REFUSED = {
    "width": (
        {f"{Q}.lora_A.weight": torch.ones(2, 320), f"{Q}.lora_B.weight": torch.ones(320, 2)},
        r"tensor '.*attn1.to_q.lora_A.weight': got shape \(2, 320\), expected \(rank, 32\) for a weight of \(32, 32\)",
    ),
    "ranks": (
        {f"{Q}.lora_A.weight": torch.ones(2, 32), f"{Q}.lora_B.weight": torch.ones(32, 3)},
        r"tensor '.*to_q.lora_B.weight': got shape \(32, 3\), expected \(32, 2\)",
    ),
    "layer": (
        {name.replace("down_blocks.0", "down_blocks.7"): value for name, value in FITTING.items()},
        r"tensor 'unet.down_blocks.7.*' is for a layer that the bundle's unet does not have",
    ),
    "family": (
        {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 32)},
        r"is for a text_encoder_2, expected one for unet, text_encoder \(the bundle has text_encoder, unet, vae_",
    ),
    "transformer": (
        {"transformer.blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 32)},
        "is for a transformer, expected one for unet, text_encoder",
    ),
    "half": (
        {f"{Q}.lora_A.weight": torch.ones(2, 32)},
        "has no up factor beside '.*to_q.lora_A.weight', expected both",
    ),
    "dora": ({**FITTING, f"{K}.dora_scale": torch.ones(32)}, "'.*dora_scale' is no factor of a LoRA, .* DoRA, LoHa"),
    "loha": ({f"{K}.hada_w1_a": torch.ones(32, 2)}, "'.*hada_w1_a' is no factor of a LoRA"),
    "tucker": ({f"{K}.lora_mid.weight": torch.ones(2, 2)}, "'.*lora_mid.weight' is no factor of a LoRA"),
    "nothing": ({"something": torch.ones(1)}, "got no tensor of a LoRA among 1, expected names such as"),
    "twice": (
        {
            **FITTING,
            f"{Q}.lora.down.weight": torch.ones(2, 32),
        },
        "are both for unet .*to_q, expected one",
    ),
    "some alphas": (
        {
            **FITTING,
            f"{K}.lora_down.weight": torch.ones(2, 32),
            f"{K}.lora_up.weight": torch.ones(32, 2),
            f"{K}.alpha": torch.tensor(1.0),
        },
        "got alphas for 1 of 2 layers, but layer .*to_q has none",
    ),
    "wide alpha": (
        {
            f"{K}.lora_down.weight": torch.ones(2, 32),
            f"{K}.lora_up.weight": torch.ones(32, 2),
            f"{K}.alpha": torch.ones(2),
        },
        r"tensor '.*alpha': got shape \(2,\), expected one number",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_for_something_else(pipe, saved, case):
    tensors, message = REFUSED[case]
    with pytest.raises(InputError, match=f"LoRA .*x.safetensors: .*{message}"):
        pipe.loras.load(saved(tensors))
    assert pipe.loras.scales == {}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no object"),
        ('{"unet.use_dora": true}', "metadata 'unet.use_dora' is true, but DoRA is not supported"),
        ('{"unet.lora_alpha": "x"}', "metadata lora_alpha: got 'x', expected a number"),
    ],
)
def test_damaged_metadata(pipe, saved, metadata, message):
    with pytest.raises(InputError, match=message):
        pipe.loras.load(saved(FITTING, {"lora_adapter_metadata": metadata}))


def test_unused_tensors_are_reported(pipe, saved):
    report = pipe.loras.load(saved({**FITTING, "clip_l": torch.ones(2, 3)}), name="mine")
    assert report.name == "mine"
    assert report.unused == ("clip_l",)
    assert report.layers == {"unet": 1}
    with pytest.raises(InputError, match="LoRA 'mine' is loaded already; pass another name"):
        pipe.loras.load(saved(FITTING), name="mine")
    for call in (pipe.loras.unload, lambda name: pipe.loras.set_scale(1.0, name)):
        with pytest.raises(InputError, match="LoRA 'yours' is not loaded, expected one of mine"):
            call("yours")
    for scale in (float("nan"), "1", True, None):
        with pytest.raises(InputError, match="scale: got .*, expected a finite number"):
            pipe.loras.set_scale(scale)
    pipe.loras.unload()


@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt", "pth"])
def test_pickles_are_refused(pipe, tmp_path, ending):
    with pytest.raises(InputError, match=rf"x\.{ending}: is a pickled file, which can run code when read"):
        pipe.loras.load(tmp_path / f"x.{ending}")
    with pytest.raises(InputError, match=rf"x\.{ending}: is a pickled file"):
        pipe.embeddings.load(tmp_path / f"x.{ending}")


def test_an_engine_that_takes_none_is_named(bundle, saved, tmp_path):
    """As those of Core ML, and those whose activations are int8."""
    own = shutil.copytree(bundle, tmp_path / "own")
    manifest = json.loads((own / "diffoundry.json").read_text())
    for part in manifest["components"].values():
        for engine in part["engines"][:1]:
            engine["adapters"] = None
    (own / "diffoundry.json").write_text(json.dumps(manifest))
    message = (
        "component 'unet': got onnxruntime fp32, which takes no LoRA .* expected onnxruntime fp16 or openvino fp32"
    )
    with pytest.raises(EngineError, match=message):
        load(own).loras.load(saved(FITTING))


def test_when_one_engine_refuses_nothing_has_changed(opened, make_lora, steps, tmp_path, monkeypatch):
    pipe = opened()
    first = make_lora(tmp_path / "first.safetensors", seed=1)
    pipe.loras.load(first)
    before = steps(pipe)
    encoder = pipe.session.engine("text_encoder")
    set_adapters, calls = encoder.set_adapters, []

    def refuse(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise EngineError("no")
        set_adapters(*arguments)

    monkeypatch.setattr(encoder, "set_adapters", refuse)
    with pytest.raises(EngineError, match="no"):
        pipe.loras.load(make_lora(tmp_path / "second.safetensors", seed=2))
    assert pipe.loras.scales == {"first": 1.0}
    assert np.array_equal(before[1], steps(pipe)[1])


def test_a_changed_graph_for_adapters_is_noticed(bundle, make_lora, tmp_path):
    own = shutil.copytree(bundle, tmp_path / "own")
    path = own / "unet/model.onnxruntime.adapters.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    pipe = load(own)
    pipe("x", num_inference_steps=1, output_type="latent")
    lora = make_lora(tmp_path / "x.safetensors")
    with pytest.raises(BundleError, match=r"adapters\.onnx has SHA-256"):
        pipe.loras.load(lora)
    assert pipe.loras.scales == {}

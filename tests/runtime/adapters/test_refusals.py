"""Refusals: files for other models, other kinds of adapters, engines that take none."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffoundry.runtime import load
from diffoundry.runtime.adapters.pickles import check_not_pickled
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
    "dora": (
        {**FITTING, f"{K}.dora_scale": torch.ones(32)},
        "'.*dora_scale' belongs to DoRA, which also rescales the weight, which is not supported, expected .*alpha$",
    ),
    "PEFT's dora": (
        {**FITTING, f"{Q}.lora_magnitude_vector": torch.ones(32)},
        "'.*lora_magnitude_vector' belongs to DoRA, .*; fuse it with diffusers .load_lora_weights, fuse_lora, ",
    ),
    "bias": (
        {**FITTING, f"{Q}.lora_B.bias": torch.ones(32)},
        "'.*lora_B.bias' belongs to a LoRA with biases.*alpha; of FLUX.1 'export --lora' fuses them into the weights$",
    ),
    "loha": ({f"{K}.hada_w1_a": torch.ones(32, 2)}, "'.*hada_w1_a' belongs to LoHa, which is not supported"),
    "lokr": ({f"{K}.lokr_w1": torch.ones(32, 2)}, "'.*lokr_w1' belongs to LoKr, which is not supported"),
    "PEFT's lokr": ({f"{Q}.lokr_w2_a": torch.ones(32, 2)}, "'.*lokr_w2_a' belongs to LoKr, which is not supported"),
    "oft": ({f"{K}.oft_blocks": torch.ones(2, 2)}, "'.*oft_blocks' belongs to OFT"),
    "ia3": ({f"{K}.on_input": torch.ones(2, 2)}, r"'.*on_input' belongs to \(IA\)3"),
    "whole": ({f"{K}.diff": torch.ones(2, 2)}, "'.*diff' belongs to an adapter with whole weights"),
    "norm": ({f"{K}.w_norm": torch.ones(2)}, "'.*w_norm' belongs to an adapter with whole weights"),
    "tucker": ({f"{K}.lora_mid.weight": torch.ones(2, 2)}, "'.*mid.weight' belongs to LoCon with Tucker factors"),
    "bias of an adapter": ({f"{Q}.lora_B.default.bias": torch.ones(32)}, "'.*default.bias' belongs to a LoRA with bia"),
    "another prefix": (
        {f"model.diffusion_model.{Q.removeprefix('unet.')}.something": torch.ones(2)},
        "'model.diffusion_model.*something' is no factor of a LoRA, expected lora_A",
    ),
    "other": ({f"{K}.something": torch.ones(2)}, "'.*something' is no factor of a LoRA, expected lora_A and lora_B"),
    "nothing": ({"something": torch.ones(1)}, "got no tensor of a LoRA among 1, expected names such as"),
    "twice": (
        {
            **FITTING,
            f"{Q}.lora.down.weight": torch.ones(2, 32),
        },
        "are both for unet .*to_q, expected one",
    ),
    "wide alpha": (
        {
            f"{K}.lora_down.weight": torch.ones(2, 32),
            f"{K}.lora_up.weight": torch.ones(32, 2),
            f"{K}.alpha": torch.ones(2),
        },
        r"tensor '.*alpha': got shape \(2,\), expected one number",
    ),
    "alpha of NaN": (
        {
            f"{K}.lora_down.weight": torch.ones(2, 32),
            f"{K}.lora_up.weight": torch.ones(32, 2),
            f"{K}.alpha": torch.tensor(torch.nan),
        },
        "tensor '.*alpha': got nan, expected a finite number",
    ),
    "infinite factor": (
        {f"{K}.lora_down.weight": torch.ones(2, 32), f"{K}.lora_up.weight": torch.full((32, 2), torch.inf)},
        "tensor '.*lora_up.weight': got numbers that are not finite; the file is damaged",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_for_something_else(pipe, saved, case):
    tensors, message = REFUSED[case]
    with pytest.raises(InputError, match=f"LoRA .*x.safetensors: .*{message}"):
        pipe.loras.load(saved(tensors))
    assert pipe.loras.scales == {}


def test_odd_arguments(pipe, saved):
    path = saved(FITTING)
    for path_, options, message in (
        (FITTING, {}, "path: got dict, expected the path of a .safetensors file"),
        (None, {}, "path: got NoneType, expected the path"),
        (path, {"name": 5}, "name: got 5, expected a text of at least one letter"),
        (path, {"name": ""}, "name: got '', expected a text"),
        (path, {"scale": 10**400}, "scale: got 1000000"),
        (path, {"scale": 1e300}, "scale: got 1e.300, expected a finite number"),
    ):
        with pytest.raises(InputError, match=message):
            pipe.loras.load(path_, **options)
    with pytest.raises(InputError, match=r"LoRA \['a'\] is not loaded, expected one of none"):
        pipe.loras.unload(["a"])
    with pytest.raises(InputError, match="path: got dict, expected the path of a .safetensors file"):
        pipe.load_lora_weights(FITTING)
    with pytest.raises(InputError, match="path: got dict"):
        pipe.embeddings.load({"<cat>": torch.ones(32)})
    with pytest.raises(InputError, match="token: got 5, expected a word"):
        pipe.embeddings.load(saved({"<cat>": torch.ones(32)}), token=5)
    pipe.loras.load(saved(FITTING), scale=np.float32(0.5), name="half")
    assert pipe.loras.scales == {"half": 0.5}
    pipe.loras.unload()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no object"),
        ('{"unet.use_dora": true}', "metadata 'unet.use_dora' is true, but DoRA is not supported"),
        ('{"unet.lora_alpha": "x"}', "metadata unet.lora_alpha: got 'x', expected a number"),
        ('{"unet.lora_alpha": NaN}', "metadata unet.lora_alpha: got nan, expected a number"),
        ('{"unet.alpha_pattern": [1]}', "metadata unet.alpha_pattern: got .1., expected an object"),
        ('{"unet.alpha_pattern": {"to_q": null}}', "metadata unet.alpha_pattern: got None, expected a number"),
        ('{"unet.alpha_pattern": {"(": 1}}', "metadata pattern '.': is no regular expression .missing"),
        ('{"unet.alpha_pattern": {"(a+)+": 1}}', "metadata pattern '.*': got an expression that can take very long"),
        ('{"unet.rank_pattern": {"(.)\\\\1": 1}}', "metadata pattern '.*': got an expression that can take very long"),
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


def test_alphas_in_tensors_and_in_the_metadata(pipe, saved):
    file = saved({**FITTING, f"{Q}.alpha": torch.tensor(1.0)}, {"lora_adapter_metadata": '{"unet.lora_alpha": 2}'})
    with pytest.raises(InputError, match="got alphas in tensors such as .*to_q.alpha and in the metadata 'lora"):
        pipe.loras.load(file)


def _parameters(**values):
    return torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in values.items()})


A1111 = {"string_to_token": {"*": 265}, "name": "old", "step": 1}
PICKLED = {
    "flat": ({"a": torch.ones(2, 3).T}, {"a"}),
    "lightning": ({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, {"a"}),
    "AUTOMATIC1111": ({**A1111, "string_to_param": {"*": torch.nn.Parameter(torch.ones(2, 32))}}, {"<cat>"}),
    "its first version": ({"string_to_token": {}, "string_to_param": _parameters(cat=torch.ones(2, 32))}, {"<cat>"}),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", PICKLED)
def test_the_conversion_in_the_message_works_on_the_file(tmp_path, case, zipped):
    content, names = PICKLED[case]
    file, new = tmp_path / "x.pt", tmp_path / "x.safetensors"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="convert a file that you trust with") as refusal:
        check_not_pickled(file)
    code = str(refusal.value).partition("that you trust with ")[2]
    with torch.serialization.safe_globals([]):
        exec(f"import torch, safetensors.torch; {code}", {"FILE": file, "NEW_FILE": new, "WORD": "<cat>"})
    assert set(load_file(new)) == names


def test_a_dora_is_fused_by_diffusers_as_the_message_says(theirs, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(0)
    before = {name: value.clone() for name, value in theirs.unet.state_dict().items()}
    config = LoraConfig(r=2, target_modules=["to_q"], use_dora=True, init_lora_weights=False)
    theirs.unet.add_adapter(config, "made")
    layers = get_peft_model_state_dict(theirs.unet, adapter_name="made")
    theirs.unet.delete_adapters("made")
    theirs.save_lora_weights(tmp_path / "dora", unet_lora_layers=layers)
    theirs.load_lora_weights(tmp_path / "dora")
    theirs.fuse_lora()
    theirs.unload_lora_weights()
    theirs.save_pretrained(tmp_path / "fused")
    fused = load_file(tmp_path / "fused/unet/diffusion_pytorch_model.safetensors")
    assert set(fused) == set(before)
    changed = {name for name, value in before.items() if (value - fused[name]).abs().max() > 1e-3}
    assert changed == {name for name in before if ".to_q.weight" in name}


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

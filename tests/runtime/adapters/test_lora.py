"""LoRAs at run time against diffusers and PEFT: latents after every step, for every format, engine and scale."""

import json

import numpy as np
import pytest
import torch
from device_precisions import requires_precision
from safetensors.torch import load_file, save_file

from diffoundry.runtime import EngineOptions, load

# float32 through three UNet calls by libraries that sum in different orders: seen are 1e-6 to 3e-6. What the LoRAs of
# these tests change shows as 1e-1, and one of their layers left out as 1e-3 and more.
TOLERANCE = 2e-5

# Weights and most of the arithmetic in fp16: seen are 1e-3 and 4e-3, with a LoRA as without.
HALF_TOLERANCE = 1e-2


@pytest.mark.slow_cases("processors-*")
@pytest.mark.parametrize(
    ("form", "which", "dtype"),
    [
        pytest.param("peft", "everything", torch.float32, marks=pytest.mark.slow),
        pytest.param("kohya", "everything", torch.float16, marks=pytest.mark.slow),
        pytest.param("diffusers", "projections", torch.bfloat16, marks=pytest.mark.slow),
        ("processors", "attention", torch.float32),
    ],
)
def test_every_step_is_diffusers(opened, theirs, make_lora, steps, error, tmp_path, form, which, dtype):
    path = make_lora(tmp_path / "x.safetensors", form, which, dtype=dtype)
    theirs.load_lora_weights(str(path))
    expected = steps(theirs)
    for target in ("onnxruntime", "openvino"):
        ours = opened(target)
        before = steps(ours)
        report = ours.loras.load(path)
        with_lora = steps(ours)
        assert error(with_lora, expected) < TOLERANCE
        assert error(with_lora, before) > 0.03
        np.testing.assert_allclose(with_lora[1], expected[1], atol=2e-3)
        assert report.unused == ()
        assert set(report.layers) == {"unet", "text_encoder"}
        ours.loras.unload()
        after = steps(ours)
        assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert np.array_equal(before[1], after[1])


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_half_precision(opened, theirs, make_lora, steps, error, tmp_path, target):
    requires_precision(target, "fp16")
    path = make_lora(tmp_path / "x.safetensors", "kohya", "everything")
    theirs.load_lora_weights(str(path))
    ours = opened(target, "fp16")
    ours.loras.load(path)
    assert error(steps(ours), steps(theirs)) < HALF_TOLERANCE


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_several_with_scales_of_their_own(opened, theirs, make_lora, steps, error, tmp_path, target):
    first = make_lora(tmp_path / "first.safetensors", "peft", "attention", seed=1)
    second = make_lora(tmp_path / "second.safetensors", "kohya", "everything", seed=2)
    ours = opened(target)
    ours.loras.load(first, scale=0.8)
    ours.loras.load(second, scale=-0.5, name="other")
    assert ours.loras.scales == {"first": 0.8, "other": -0.5}
    theirs.load_lora_weights(str(first), adapter_name="first")
    theirs.load_lora_weights(str(second), adapter_name="second")
    for a, b in ((0.8, -0.5), (0.0, 1.5)):
        ours.loras.set_scale(a, "first")
        ours.loras.set_scale(b, "other")
        theirs.set_adapters(["first", "second"], [a, b])
        assert error(steps(ours), steps(theirs)) < TOLERANCE
    ours.loras.unload("first")
    ours.loras.set_scale(1.0)
    theirs.set_adapters(["second"], [1.0])
    assert error(steps(ours), steps(theirs)) < TOLERANCE


@pytest.mark.slow
def test_switching_opens_nothing_anew(opened, make_lora, tmp_path, monkeypatch):
    ranks = iter((lambda _count: 4, lambda _count: 3, lambda _count: 16))
    files = [
        make_lora(tmp_path / f"{n}.safetensors", "kohya", "everything", seed=n, rank=next(ranks)) for n in range(3)
    ]
    for target in ("onnxruntime", "openvino"):
        ours = opened(target)
        ours.session.open_all()
        ours.loras.load(files[0])
        states = [ours.session.engine(name) for name in ("unet", "text_encoder")]
        for state in states:
            monkeypatch.setattr(state, "_open", lambda *_: pytest.fail("an engine was opened"))
        ours.loras.load(files[1], scale=0.3)
        ours.loras.unload()
        ours.loras.load(files[2], scale=0.3)
        ours.loras.set_scale(0.4)
        ours("x", num_inference_steps=1, output_type="latent")
        ours.loras.unload()
        ours("x", num_inference_steps=1, output_type="latent")  # the plain form is held
        ours.loras.load(files[1])
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("target", "frugal"),
    [
        ("onnxruntime", {"options": EngineOptions(keep_both=False)}),
        pytest.param("openvino", {"options": EngineOptions(keep_both=False)}, marks=pytest.mark.slow),
        ("onnxruntime", {"low_memory": True}),
    ],
)
def test_one_form_at_a_time_where_memory_is_short(bundle, make_lora, steps, tmp_path, target, frugal):
    """The same images either way, and the other form is let go of."""
    path = make_lora(tmp_path / "x.safetensors", "kohya", "everything")
    held, saving = load(bundle, target=target), load(bundle, target=target, **frugal)
    for change in (lambda pipe: None, lambda pipe: pipe.loras.load(path), lambda pipe: pipe.loras.unload()):
        images = []
        for pipe in (held, saving):
            change(pipe)
            images.append(steps(pipe, num_inference_steps=1)[1])
        assert np.array_equal(*images)
    forms = "_sessions" if target == "onnxruntime" else "_forms"
    engines = [pipe.session.engine("unet") for pipe in (held, saving)]
    assert [len(getattr(engine, forms)) for engine in engines] == [2, 1]


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_engine_opened_with_adapters_opens_no_plain_form(opened, make_lora, tmp_path, target):
    ours = opened(target)
    ours.loras.load(make_lora(tmp_path / "x.safetensors"))
    engine = ours.session.engine("unet")
    assert len(engine._sessions if target == "onnxruntime" else engine._forms) == 1
    assert [spec.name for spec in engine.inputs] == ["sample", "timestep", "encoder_hidden_states"]


def test_equal_to_fuse_lora(opened, theirs, make_lora, steps, error, tmp_path):
    path = make_lora(tmp_path / "x.safetensors", "peft", "everything")
    theirs.load_lora_weights(str(path))
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora_weights()
    ours = opened()
    ours.loras.load(path, scale=0.7)
    assert error(steps(ours), steps(theirs)) < TOLERANCE


def test_alphas_in_the_metadata_of_diffusers(opened, theirs, make_lora, steps, error, tmp_path):
    """Output of `save_lora_weights` since 0.34: PEFT's config beside the tensors."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    patterns = {"alpha_pattern": {"down_blocks.0.attentions.0.proj_in": 3}, "rank_pattern": {"attn2.to_q": 2}}
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "proj_in"], init_lora_weights=False, **patterns)
    torch.manual_seed(0)
    theirs.unet.add_adapter(config)
    layers = get_peft_model_state_dict(theirs.unet)
    theirs.save_lora_weights(
        tmp_path,
        unet_lora_layers=convert_state_dict_to_diffusers(layers),
        unet_lora_adapter_metadata=theirs.unet.peft_config["default"].to_dict(),
    )
    ours = opened()
    ours.loras.load(tmp_path / "pytorch_lora_weights.safetensors")
    assert error(steps(ours), steps(theirs)) < TOLERANCE


def test_each_layer_has_its_own_alpha_in_the_text_encoder_too(opened, make_lora, layers, steps, error, tmp_path):
    """Against the weights changed by hand, as kohya's trainer defines it."""
    path = make_lora(tmp_path / "x.safetensors", "kohya", "attention")
    tensors = load_file(path)
    alphas = [name for name in tensors if name.startswith("lora_te_") and name.endswith("alpha")]
    for count, name in enumerate(alphas):
        tensors[name] = torch.tensor(1.0 + count)
    save_file(tensors, path)
    found = layers("attention")
    kept = {module: module.weight.detach().clone() for some in found.values() for module in some.values()}
    ours = opened()
    ours.loras.load(path)
    tokens = ours.text_encoders[0].tokenizer(["a red apple"]).input_ids
    try:
        for part, prefix in (("text_encoder", "lora_te_text_model_"),):
            for name, module in found[part].items():
                root = prefix + name.replace(".", "_")
                up, down = tensors[f"{root}.lora_up.weight"], tensors[f"{root}.lora_down.weight"]
                module.weight.data += tensors[f"{root}.alpha"] / len(down) * (up @ down)
        encoder = layers.pipeline().text_encoder
        expected = encoder(torch.from_numpy(tokens).long())[0].detach().numpy()
    finally:
        for module, weight in kept.items():
            module.weight.data = weight
    got = ours.session.run("text_encoder", {"input_ids": tokens})["last_hidden_state"]
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_engines_that_are_opened_later_and_again_have_it(opened, make_lora, steps, tmp_path):
    path = make_lora(tmp_path / "x.safetensors")
    ours = opened()
    ours.loras.load(path)  # nothing is open yet
    first = steps(ours)
    ours.session.close()
    again = steps(ours)
    assert np.array_equal(first[1], again[1])
    other = opened()
    steps(other)
    other.loras.load(path)
    assert np.array_equal(first[1], steps(other)[1])


def test_the_names_of_sdxl_in_kohyas_files(tmp_path):
    """Names of its original code against diffusers' conversion, for every layer of the full-size UNet."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )
    from diffusers.utils import convert_unet_state_dict_to_peft

    from diffoundry.runtime.adapters.lora_names import LayerNames, parse_name
    from diffoundry.runtime.formats.ldm_keys import ldm_unet_names

    unet = _sdxl_unet()
    layers = [n for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    originals = ldm_unet_names(layers, 2)
    assert len(originals) == len(layers) == 794
    names = LayerNames(layers, dict(unet.config))
    state = {}
    for count, layer in enumerate(layers):
        root = f"lora_unet_{originals[layer].replace('.', '_')}"
        assert names.find(parse_name(f"{root}.alpha").layer).layers == (layer,)
        assert names.find(parse_name(f"unet.{originals[layer]}.alpha").layer).layers == (layer,)  # OneTrainer
        state |= {f"{root}.lora_down.weight": torch.tensor(count), f"{root}.lora_up.weight": torch.tensor(count)}
    mapped = _maybe_map_sgm_blocks_to_diffusers(dict(state), unet.config)
    theirs, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    theirs = convert_unet_state_dict_to_peft({key.removeprefix("unet."): value for key, value in theirs.items()})
    found = {key.removesuffix(".lora_A.weight"): int(value) for key, value in theirs.items() if "lora_A" in key}
    assert found == {layer: count for count, layer in enumerate(layers)}


def _sdxl_unet():
    """The UNet of Stable Diffusion XL, without weights."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    with init_empty_weights():
        return UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            cross_attention_dim=2048,
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )


def test_the_manifest_says_what_each_engine_takes(bundle, layers):
    manifest = json.loads((bundle / "diffoundry.json").read_text())
    found = layers("everything")
    for part in ("unet", "text_encoder"):
        shapes = {name: list(module.weight.shape) for name, module in found[part].items()}
        for engine in manifest["components"][part]["engines"]:
            assert engine["adapters"]["layers"] == shapes
            assert set(engine["adapters"]["files"]) <= set(manifest["files"])
    assert all(engine["adapters"] is None for engine in manifest["components"]["vae_decoder"]["engines"])


def _with_config(tmp_path, make_lora, config, which="attention", **arguments):
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    return make_lora(tmp_path / "x.safetensors", "peft", which, rank=lambda _: 4, metadata=metadata, **arguments)


def _config(part, layers, patterns):
    ends = ["to_q", "to_k", "to_v", "to_out.0"] if part == "unet" else ["q_proj", "k_proj", "v_proj", "out_proj"]
    return {f"{part}.r": 4, f"{part}.lora_alpha": 4, f"{part}.target_modules": ends, f"{part}.alpha_pattern": patterns}


def test_patterns_of_peft_are_regular_expressions(opened, theirs, make_lora, layers, steps, error, tmp_path):
    """The first that fits wins; a name of transformers 4 counts as that of 5; the rest is said."""
    patterns = {r"attn1\.to_(v|k)": 16, "attn1.to_v": 1, "^up_blocks.*to_q": 2, "to_q": 9, "^to_out.0": 3}
    config = _config("unet", layers, patterns) | _config("text_encoder", layers, {"layers.0.self_attn.q_proj": 11})
    path = _with_config(tmp_path, make_lora, config)
    ours = opened()
    report = ours.loras.load(path)
    assert report.notes == ("alpha_pattern '^to_out.0' fits no layer of unet in this file",)
    theirs.load_lora_weights(str(path))
    expected = steps(theirs)
    assert error(steps(ours), expected) < TOLERANCE
    ours.loras.unload()
    config["text_encoder.alpha_pattern"] = {r"text_model\.encoder\.layers\.0\.self_attn\.q_proj": 11}
    assert ours.loras.load(_with_config(tmp_path, make_lora, config)).notes == report.notes
    assert error(steps(ours), expected) < TOLERANCE


def test_the_patterns_are_matched_as_peft_does():
    from itertools import islice, permutations
    from pathlib import Path

    from peft.utils.other import get_pattern_key

    from diffoundry.runtime.adapters.peft_patterns import match_patterns

    names = [
        f"{side}_blocks.{block}.attentions.0.transformer_blocks.0.{attention}.{layer}"
        for side in ("down", "up")
        for block in range(3)
        for attention in ("attn1", "attn2")
        for layer in ("to_q", "to_out.0")
    ]
    names += ["conv_in", "time_embedding.linear_1", "mid_block.resnets.0.conv1"]
    patterns = ("to_q", "^to_q", "^conv_in", r"attn1\.to_(q|out\.0)", r"down_blocks\.\d+\..*\.to_q", ".*to_out.0$")
    patterns += ("time_embedding.linear.1", "conv_.n", ".*", "up_blocks.1", r"(?:attn2|attn1)\.to_q")
    for chosen in islice(permutations(patterns, 4), 0, None, 40):
        table = {pattern: float(count) for count, pattern in enumerate(chosen)}
        found, unfitting = match_patterns(table, {name: (name,) for name in names}, Path("x"))
        keys = {name: get_pattern_key(table.keys(), name) for name in names}
        assert found == {name: table[key] for name, key in keys.items() if key in table}
        alone = {p for p in chosen if not any(get_pattern_key([p], name) == p for name in names)}
        assert set(unfitting) == alone


@pytest.mark.slow
def test_ranks_without_alphas_and_alphas_of_some_layers(opened, theirs, make_lora, steps, error, tmp_path):
    """As diffusers from 0.40 on; the rule is named."""
    path = make_lora(tmp_path / "ranks.safetensors", "kohya", "everything", rank=lambda count: 2 + count % 2)
    tensors = load_file(path)
    without = {name: tensor for name, tensor in tensors.items() if not name.endswith("alpha")}
    some = dict(tensors)
    for count, name in enumerate([name for name in tensors if name.endswith("alpha")]):
        some[name] = torch.tensor(1.5)
        if count % 3 == 0:
            del some[name]
    for found, note in (
        (
            without,
            "unet has layers of the ranks 2, 3 and no alphas: the alpha of each layer is its rank, as in diffusers",
        ),
        (some, "layers of unet have no alpha: they get 1.5, the most frequent one, as in diffusers; kohya's programs"),
    ):
        save_file(found, path)
        ours = opened()
        assert note in " ".join(ours.loras.load(path).notes)
        theirs.load_lora_weights(str(path), adapter_name="x")
        assert error(steps(ours), steps(theirs)) < TOLERANCE
        theirs.unload_lora_weights()


def test_every_spelling_of_a_name(opened, make_lora, tmp_path):
    """Dots or underscores, diffusers' or the original names, and the prefixes of other programs."""
    from diffoundry.runtime.formats.ldm_keys import ldm_unet_names

    ours = opened()
    path = make_lora(tmp_path / "x.safetensors", "peft", "everything")
    tensors = load_file(path)

    layers = {name.rsplit(".", 2)[0].removeprefix("unet.") for name in tensors if name.startswith("unet.")}
    originals = ldm_unet_names(layers, 1)
    expected = _read(ours, path)

    def spelled(unet, text, *, original, flat, ends):
        def rename(name):
            part, rest = name.split(".", 1)
            layer, factor = rest.rsplit(".", 2)[0], rest.split(".")[-2]
            layer = originals[layer] if original and part == "unet" else layer
            prefix = unet if part == "unet" else text
            return prefix + (layer.replace(".", "_") if flat else layer) + ends[factor]

        return rename

    peft = {"lora_A": ".lora_A.weight", "lora_B": ".lora_B.weight"}
    kohya = {"lora_A": ".lora_down.weight", "lora_B": ".lora_up.weight"}
    named = {"lora_A": ".lora_A.default.weight", "lora_B": ".lora_B.default.weight"}
    for rename in (
        spelled("unet.", "clip_l.text_model.", original=True, flat=False, ends=kohya),  # OneTrainer
        spelled(
            "diffusion_model.", "text_encoders.clip_l.transformer.text_model.", original=True, flat=False, ends=peft
        ),
        spelled("model.diffusion_model.", "clip_l.transformer.", original=True, flat=False, ends=kohya),
        spelled("diffusion_model.", "lora_te1_text_model_", original=False, flat=False, ends=kohya),
        spelled("lora_unet_", "lora_te1_text_model_", original=True, flat=True, ends=kohya),
        spelled("unet.", "text_encoder.text_model.", original=False, flat=False, ends=named),
    ):
        save_file({rename(name): tensor for name, tensor in tensors.items()}, path)
        found = _read(ours, path)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in found)


def _read(pipe, path):
    """Factors of a file by component, layer and side."""
    from diffoundry.runtime.adapters.lora import read_lora

    adapters = pipe.loras._adapters
    lora = read_lora(path, adapters._hosts(), pipe.session.bundle.components)
    assert lora.unused == ()
    return {
        (part, layer, side): getattr(factors, side)
        for part, layers in lora.factors.items()
        for layer, factors in layers.items()
        for side in ("down", "up")
    }

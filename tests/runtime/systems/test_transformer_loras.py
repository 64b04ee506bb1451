"""LoRAs of FLUX.2, Chroma, AuraFlow and Lumina-Image 2.0 in the names of every program, against diffusers."""

import json
import re
from unittest import mock

import pytest
import torch
from diffusers.loaders import lora_conversion_utils, lora_pipeline, single_file_utils
from safetensors.torch import save_file
from system_lora import check_lora, factors, flux_widths, linear_layers, tiny
from system_pair import open_theirs
from tiny_auraflow import make_auraflow
from tiny_chroma import make_chroma
from tiny_flux_2 import make_klein
from tiny_lumina2 import make_lumina2

from diffoundry.exporter.families import flux_2 as exporter_family
from diffoundry.runtime.adapters.lora import Host, read_lora
from diffoundry.runtime.formats.flux2_keys import flux2_layers
from diffoundry.runtime.formats.flux_keys import flux_layers
from diffoundry.runtime.formats.lumina2_keys import lumina2_layers
from diffoundry.runtime.pipelines.families import flux_2 as runtime_family

LAYERS = 0, 1, 2
SHORT = {"num_inference_steps": 2, "height": 16, "width": 24, "max_sequence_length": 20, "prompt": "a red apple"}
KINDS = {
    "flux-2-klein-short": (
        lambda folder: make_klein(folder, layers=3),
        "Flux2KleinPipeline",
        {**SHORT, "guidance_scale": 1.0, "theirs_only": {"text_encoder_out_layers": LAYERS}},
    ),
    "chroma": (make_chroma, "ChromaPipeline", {**SHORT, "guidance_scale": 1.0}),
    "auraflow": (make_auraflow, "AuraFlowPipeline", {**SHORT, "guidance_scale": 1.0}),
    "lumina2": (make_lumina2, "Lumina2Pipeline", {**SHORT, "guidance_scale": 1.0, "height": 32, "width": 48}),
}


@pytest.fixture(scope="module", autouse=True)
def _few_layers():
    """Of FLUX.2's text encoder, as in the tests of its pipelines, whose export is this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter_family, "KLEIN", exporter_family.declare_klein(LAYERS))
        patch.setattr(runtime_family, "KLEIN_LAYERS", LAYERS)
        yield


@pytest.fixture
def pair(exported, system_checkpoint):
    """Return a function: name to bundle, diffusers' pipeline and the arguments of a call."""

    def build(name):
        make, pipeline_class, arguments = KINDS[name]
        folder = system_checkpoint(name, make)
        return exported(folder, target="onnxruntime,openvino"), open_theirs(folder, pipeline_class), arguments

    return build


def original_pairs(layers, originals, kept, seed=1):
    """Return random factors of original layers whose names match an expression."""
    random = torch.Generator().manual_seed(seed)
    pairs = {}
    for original, found in originals.items():
        if re.match(kept, original):
            parts = [layers[name].weight for name in found.layers]
            pairs[original] = factors((sum(map(len, parts)), parts[0].shape[1]), random)
    return pairs


def write_kohya(pairs, file, alpha=1.0):
    tensors = {}
    for name, (down, up) in pairs.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        tensors[f"{flat}.alpha"] = torch.tensor(alpha)
    save_file(tensors, file)


def write_peft(pairs, file, prefix, **others):
    tensors = {
        f"{prefix}{name}.lora_{side}.weight": tensor.contiguous()
        for name, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    save_file({**tensors, **others}, file)


@pytest.mark.slow_cases("flux*", "chroma", "auraflow", "lumina2")
@pytest.mark.parametrize("name", list(KINDS))
def test_names_of_diffusers(pair, tmp_path, name):
    """Every linear layer; a tensor of no layer is listed."""
    (bundle, theirs, arguments), random = pair(name), torch.Generator().manual_seed(0)
    pairs = {name: factors(layer.weight.shape, random) for name, layer in linear_layers(theirs.transformer).items()}
    ours = tmp_path / "ours.safetensors"
    write_peft(pairs, tmp_path / "theirs.safetensors", "transformer.")
    write_peft(pairs, ours, "base_model.model.", **{"what.is.this": torch.ones(1)})
    theirs.load_lora_weights(str(tmp_path / "theirs.safetensors"))
    both, counts = ("onnxruntime", "openvino"), {"transformer": len(pairs)}
    check_lora(bundle, theirs, ours, arguments, both, unused=("what.is.this",), layers=counts)


CONVERTED = {
    "FLUX.2 of kohya": ("flux-2-klein-short", r"(double|single)_blocks|img_in|txt_in|time_in|final_layer.linear"),
    "FLUX.2 of ComfyUI": ("flux-2-klein-short", r"(?!final_layer\.adaLN|sformer)"),
    "Chroma of kohya": ("chroma", r"(double|single)_blocks"),
    "Lumina2 of ComfyUI": ("lumina2", r"layers|noise_refiner|context_refiner"),
}
CONVERSIONS = {
    "chroma": "_convert_kohya_flux_lora_to_diffusers",
    "lumina2": "_convert_non_diffusers_lumina2_lora_to_diffusers",
}
ROWS = {"chroma": flux_widths(32), "lumina2": {2304: 32, 768: 16}}
"""Rows of the published layers to those of the tiny ones, which diffusers has as numbers."""
ORIGINALS = {"flux-2-klein-short": flux2_layers, "chroma": flux_layers, "lumina2": lumina2_layers}


@pytest.mark.slow_cases("FLUX*", "Chroma*")
@pytest.mark.parametrize("case", list(CONVERTED))
def test_original_names_that_diffusers_converts(pair, tmp_path, case):
    name, kept = CONVERTED[case]
    bundle, theirs, arguments = pair(name)
    layers = linear_layers(theirs.transformer)
    known = {
        original: found
        for original, found in ORIGINALS[name](layers).items()
        if not re.search(r"single_blocks\.\d+\.(qkv|proj)$", original)  # XLabs' parts of linear1 and linear2
    }
    pairs, file = original_pairs(layers, known, kept), tmp_path / "lora.safetensors"
    if case.endswith("kohya"):
        write_kohya(pairs, file)
    else:
        write_peft(pairs, file, "diffusion_model.")
    convert = CONVERSIONS.get(name, "_convert_kohya_flux2_lora_to_diffusers")
    own = tiny(getattr(lora_conversion_utils, convert), ROWS.get(name, {}))
    with mock.patch.object(lora_pipeline, convert, own):
        theirs.load_lora_weights(str(file))
    changed = {layer for original in pairs for layer in known[original].layers}
    check_lora(bundle, theirs, file, arguments, layers={"transformer": len(changed)})


def test_original_names_are_those_of_the_weights(system_checkpoint, tmp_path):
    """All of them, as diffusers converts whole weights; of FLUX.2 its LoRAs keep the order of the last modulation."""
    for name, convert in (
        ("flux-2-klein-short", single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers),
        ("lumina2", single_file_utils.convert_lumina2_to_diffusers),
    ):
        make, pipeline_class, _ = KINDS[name]
        folder, file = system_checkpoint(name, make), tmp_path / f"{name}.safetensors"
        layers = linear_layers(open_theirs(folder, pipeline_class).transformer)
        known = {one: found for one, found in ORIGINALS[name](layers).items() if not one.startswith("sformer")}
        same = {layer for layer in layers if not any(layer in found.layers for found in known.values())}
        assert same <= {"x_embedder"}
        pairs = original_pairs(layers, known, "")
        write_kohya(pairs, file, alpha=2.0)
        whole = {f"{one}.weight": up @ down for one, (down, up) in pairs.items()}
        expected = tiny(convert, ROWS.get(name, {}))(whole)
        config = json.loads((folder / "transformer" / "config.json").read_text())
        host = Host(layers={one: tuple(layer.weight.shape) for one, layer in layers.items()}, config=config)
        given = read_lora(file, {"transformer": host}, ["transformer"]).factors["transformer"]
        assert {f"{one}.weight" for one in given} == expected.keys()
        for one, change in given.items():
            torch.testing.assert_close(torch.from_numpy(change.up @ change.down), expected[f"{one}.weight"])


def test_names_that_some_trainers_cut_are_found():
    found = flux2_layers({"transformer_blocks.0.attn.to_q"})
    assert found["sformer_blocks.0.attn.to_q"].layers == ("transformer_blocks.0.attn.to_q",)

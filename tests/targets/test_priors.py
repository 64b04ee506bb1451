"""Priors and the networks around them through every target, in each precision, against PyTorch."""

import dataclasses
from typing import Any

import diffusers
import numpy as np
import onnx_ir as ir
import pytest
import torch
from coreml_interpreter.engine import InterpretedEngine
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from lowered_networks import lower
from traced_networks import feeds_of, portable_graph, relative_error

from diffoundry.exporter.components.image_normalizer import IMAGE_NORMALIZER
from diffoundry.exporter.components.multilingual_clip import multilingual_clip
from diffoundry.exporter.components.prior_transformer import prior_transformer
from diffoundry.exporter.components.unclip_text_proj import UNCLIP_TEXT_PROJ
from diffoundry.runtime.engines.plugins import resolve

pytestmark = pytest.mark.slow

_PRIOR = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "num_layers": 2,
    "embedding_dim": 64,
    "num_embeddings": 13,
}
_SHAP_E = {
    "additional_embeddings": 0,
    "added_emb_type": None,
    "norm_in_type": "layer",
    "embedding_proj_norm_type": "layer",
    "encoder_hid_proj_type": None,
    "time_embed_act_fn": "gelu",
    "clip_embed_dim": 128,
}
_XLM_R = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "transformerDimSize": 64,
    "imageDimSize": 32,
    "max_position_embeddings": 90,
}

KINDS = {
    "prior": (prior_transformer(), lambda: diffusers.PriorTransformer(**_PRIOR)),
    "prior of Shap-E": (prior_transformer(), lambda: diffusers.PriorTransformer(**{**_PRIOR, **_SHAP_E})),
    "projection of unCLIP": (
        UNCLIP_TEXT_PROJ,
        lambda: UnCLIPTextProjModel(clip_embeddings_dim=64, time_embed_dim=64, cross_attention_dim=64),
    ),
    "image normalizer": (IMAGE_NORMALIZER, lambda: StableUnCLIPImageNormalizer(64)),
    "text encoder of Kandinsky 2.1": (multilingual_clip(), lambda: MultilingualCLIP(MCLIPConfig(**_XLM_R))),
}

GATES = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.15}
"""Largest errors, relative to the RMS."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A traced network, inputs, and PyTorch's outputs for them."""

    component: Any
    graph: ir.Model
    feeds: dict
    expected: dict


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    kind, make = KINDS[request.param]
    torch.manual_seed(0)
    network = make().eval().requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data = 0.5 + torch.rand(parameter.shape)
    config = network.config if isinstance(network.config, dict) else network.config.to_dict()
    component = kind.describe({kind.source: dict(config), "text_encoder": dict(config)})
    feeds = feeds_of(component, batch=2, sequence=77)
    if "attention_mask" in feeds:
        tokens = feeds["attention_mask"].shape[1]
        feeds["attention_mask"] = (np.arange(tokens) < [[5], [tokens]]).astype(np.float32)
    if "input_ids" in feeds:
        feeds["input_ids"] = np.where(feeds["attention_mask"] > 0, feeds["input_ids"] + 2, 1).astype(np.int32)
    with torch.no_grad():
        outputs = resolve(component.wrapper)(network, component)(*map(torch.from_numpy, feeds.values()))
    expected = {spec.name: one.numpy() for spec, one in zip(component.outputs, outputs, strict=True)}
    return Case(component, portable_graph(network, component), feeds, expected)


def check(case, outputs, gate):
    for name, output in outputs.items():
        assert relative_error(output, case.expected[name][: len(output)]) < gate, name


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_engines_of_any_size(case, target, tmp_path):
    for precision in {"onnxruntime": ["fp32", "fp16", "int8"], "openvino": ["fp32", "int8"]}[target]:
        made = lower(case.graph, case.component, tmp_path / precision, target, precision, feeds=case.feeds)
        check(case, made.run(case.feeds), GATES[precision])


@pytest.mark.parametrize(("precision", "options"), [("fp32", {}), ("fp16", {"neural_engine": True})], ids=str)
def test_core_ml_in_the_interpreter(case, tmp_path, precision, options):
    feeds = case.feeds
    made = lower(
        case.graph, case.component, tmp_path / "it", "coreml", precision, feeds=feeds, bucket=(64, 64), **options
    )
    rows = made.spec.inputs[0].shape[0]  # engines of one size take one row of what runs outside the loop
    check(case, made.run({name: array[:rows] for name, array in feeds.items()}, InterpretedEngine), GATES[precision])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_for_rtx_builds_it(case, tmp_path, precision):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    made = lower(
        case.graph,
        case.component,
        tmp_path / "it",
        "tensorrt-rtx",
        precision,
        feeds=case.feeds,
        bucket=(64, 64),
        compute_capabilities=("sm89",),
    )
    assert made.spec.pending is None
    assert made.spec.metadata["attentions"] == sum(node.op_type == "Attention" for node in case.graph.graph)

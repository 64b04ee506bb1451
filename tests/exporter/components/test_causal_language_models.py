"""Language models as text encoders, as graphs run by the runtime's wrapper, against transformers."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from coreml_interpreter.engine import InterpretedEngine
from language_models import gemma2, qwen2_5_vl, qwen3, write_gemma_tokenizer, write_qwen_tokenizer
from lowered_networks import lower
from traced_networks import open_graph, portable_graph, relative_error

from diffoundry.exporter.checkpoints.tokenizer_files import write_tokenizer
from diffoundry.exporter.components.causal_lm_text import GEMMA_2, QWEN_2_5_VL, QWEN_3, causal_text_encoder
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.causal_lm import CausalLanguageModel, causal_rotary_angles, read_causal_layout

TEXTS = ["", "a red apple on the table", "an astronaut that rides a horse on the moon " * 12]
TOKENS = 40

CASES = {
    "one layer of two, and the embeddings": (
        lambda: qwen3("Qwen3ForCausalLM", head_dim=24), QWEN_3, (-2, 0), write_qwen_tokenizer, "Qwen2Tokenizer"
    ),
    "the last, normalized": (gemma2, GEMMA_2, (-1,), write_gemma_tokenizer, "GemmaTokenizer"),
    "text of a vision model": (qwen2_5_vl, QWEN_2_5_VL, (-1,), write_qwen_tokenizer, "Qwen2Tokenizer"),
}  # fmt: skip


def random(make):
    """A network whose layers all count."""
    torch.manual_seed(0)
    network = make().requires_grad_(False)
    for name, parameter in network.named_parameters():
        parameter.data = torch.randn(parameter.shape) * (0.1 if parameter.ndim > 1 else 0.3)
        parameter.data += 1.0 if name.endswith("norm.weight") else 0.0
    return network


class Case:
    """A language model, its graph, and a session as a bundle gives it to the wrapper."""

    def __init__(self, name, root):
        make, classes, hidden_states, write, kind = CASES[name]
        self.network, self.hidden_states = random(make), hidden_states
        write(root / "source")
        chat = {"enable_thinking": False} if kind.startswith("Qwen") else None
        write_tokenizer(root / "source", kind, root / "tokenizer", chat)
        config = complete_config(self.network.config.to_dict(), type(self.network).__name__)
        self.kind = causal_text_encoder(model_classes=classes, hidden_states=hidden_states, tokens=TOKENS, chat=chat)
        self.component = self.kind.describe({"text_encoder": config})
        self.graph = portable_graph(self.network, self.component)
        self.feeds = []
        opened = open_graph(self.graph)

        def run(_name, feeds):
            self.feeds.append(feeds)
            return dict(zip([one.name for one in self.component.outputs], opened.run(None, feeds), strict=True))

        bundle = SimpleNamespace(
            root=root,
            config=lambda _: config,
            engines=lambda _: (),
            has=lambda file: (root / file).is_file(),
            file=lambda file: root / file,
            read_json=lambda file: json.loads((root / file).read_text()),
        )
        self.inputs = list(self.component.inputs)
        self.session = SimpleNamespace(bundle=bundle, run=run, declared_inputs=lambda _: self.inputs)
        self.encoder = CausalLanguageModel(self.session, hidden_states=hidden_states, tokens=TOKENS)

    def expected(self, feeds):
        """The hidden states of transformers."""
        ids, mask = (torch.from_numpy(feeds[name]).long() for name in ("input_ids", "attention_mask"))
        with torch.no_grad():
            states = self.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return [states[index].numpy() for index in self.hidden_states]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("causal"))


def test_hidden_states_are_those_of_transformers(case):
    """Rows of padding too, which some transformers attend to; a row without any token is nobody's."""
    chat = case.encoder.chat_prompt() if case.kind.chat else None
    for longest in (False, True):
        encoded = case.encoder.encode(TEXTS, TOKENS, chat=chat, longest=longest)
        feeds = case.feeds[-1]
        assert feeds["input_ids"].shape == (3, TOKENS)
        rows = encoded.attention_mask.any(axis=1)
        for got, wanted in zip(encoded.hidden_states, case.expected(feeds), strict=True):
            np.testing.assert_allclose(got[rows], wanted[rows], rtol=0, atol=3e-5)
        assert [bool(text) for text in encoded.truncated] == [False, False, True]
    short = case.encoder.encode(TEXTS[:2], 200, chat=chat, longest=True)
    assert short.attention_mask.shape[1] < 40
    for got, wanted in zip(short.hidden_states, case.expected(case.feeds[-1]), strict=True):
        rows = short.attention_mask.any(axis=1)
        np.testing.assert_allclose(got[rows], wanted[rows], rtol=0, atol=3e-5)


def test_layers_that_are_not_read_are_cut(case):
    """So are the head of a language model and the vision part."""
    names = " ".join(case.graph.graph.initializers)
    layers = {int(found) for found in re.findall(r"layers\.(\d+)\.", names)}
    last = max(int(one.name.partition(".")[2]) for one in case.component.outputs)
    assert layers == set(range(last))
    assert "visual" not in names


def test_engines_of_one_number_of_tokens(case):
    try:
        case.inputs[0] = SimpleNamespace(name="input_ids", shape=(1, TOKENS))
        with pytest.raises(InputError, match=f"max_sequence_length: got 60, expected {TOKENS}: the engine of 'text_en"):
            case.encoder.encode(TEXTS, 60)
        with pytest.raises(InputError, match=f"max_sequence_length: got 60, expected {TOKENS}"):
            case.encoder.encode(TEXTS, 60, longest=True)
        case.encoder.encode(TEXTS[:2], 20, longest=True)
        assert case.feeds[-1]["input_ids"].shape == (2, TOKENS)
    finally:
        case.inputs[:] = case.component.inputs


def test_layouts_are_those_of_transformers():
    for config in (transformers.Qwen3Config(), transformers.Gemma2Config(), transformers.Qwen2_5_VLConfig()):
        inner = getattr(config, "text_config", config)
        for saved in (config.to_dict(), {"model_type": config.model_type}):
            layout = read_causal_layout(saved, "config.json")
            assert (layout.width, layout.layers) == (inner.hidden_size, inner.num_hidden_layers)
            assert layout.head == getattr(inner, "head_dim", None) or inner.hidden_size // inner.num_attention_heads
            assert layout.theta == inner.rope_parameters["rope_theta"]
            assert layout.window == (4096 if config.model_type == "gemma2" else None)
    rotary = transformers.models.qwen3.modeling_qwen3.Qwen3RotaryEmbedding(transformers.Qwen3Config(rope_theta=1e6))
    wanted = rotary(torch.zeros(1), torch.arange(512)[None])
    layout = read_causal_layout({"model_type": "qwen3", "rope_theta": 1e6}, "config.json")
    for got, table in zip(causal_rotary_angles(2, 512, layout), wanted, strict=True):
        np.testing.assert_allclose(got[1], table[0, :, :64].numpy(), rtol=0, atol=1e-7)


def test_configs_that_are_refused():
    for fields, message in (
        (
            {"model_type": "llama"},
            "field 'model_type': got 'llama', expected one of 'qwen3', 'qwen2_5_vl', 'qwen3_vl', 'mistral3', 'gemma2'",
        ),
        ({"rope_scaling": {"rope_type": "yarn"}}, "field 'rope_type': got 'yarn', expected one of 'default', 'mrope'"),
        ({"rope_parameters": [1]}, r"field 'rope_parameters': got \[1\], expected an object"),
        ({"num_hidden_layers": 5}, "field 'num_hidden_layers': got 5, expected at least 6"),
        ({"use_sliding_window": True, "sliding_window": 8}, "field 'sliding_window': got 8, expected at least 40"),
    ):
        kind = causal_text_encoder(model_classes=QWEN_3, hidden_states=(-2, 6), tokens=TOKENS)
        with pytest.raises(ConfigError, match=f"text_encoder/config.json: {message}"):
            kind.describe({"text_encoder": {"model_type": "qwen3", "_class_name": "Qwen3Model", **fields}})


GATES = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 0.03, "int8-weights": 0.05, "int4-weights": 0.35}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision", "options"),
    [
        *(("onnxruntime", name, {}) for name in ("fp32", "fp16", "int8-weights", "int4-weights")),
        *(("openvino", name, {}) for name in ("fp32", "bf16", "int8-weights", "int4-weights")),
        *(("coreml", name, {}) for name in ("fp32", "fp16")),
        ("tensorrt-rtx", "fp16", {"compute_capabilities": ("sm89",)}),
    ],
    ids=str,
)
def test_targets(case, tmp_path, target, precision, options):
    case.encoder.encode(TEXTS[1:2], TOKENS)
    feeds = case.feeds[-1]
    made = lower(
        case.graph, case.component, tmp_path / "it", target, precision, feeds=feeds, bucket=(64, 64), **options
    )
    if target == "tensorrt-rtx":
        assert made.spec.pending is None
        return
    outputs = made.run(feeds, InterpretedEngine if target == "coreml" else None)
    for spec, wanted in zip(case.component.outputs, case.expected(feeds), strict=True):
        assert relative_error(outputs[spec.name], wanted) < GATES[precision], (target, precision)

"""The text encoder of latent diffusion against diffusers: configs, weights of a folder, the graph, the wrapper."""

import types

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from bert_tokenizer import write_wordpiece
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from transformers import BertTokenizer

from diffoundry.exporter.checkpoints.tokenizer_files import write_tokenizer
from diffoundry.exporter.checkpoints.weight_headers import open_weights
from diffoundry.exporter.checkpoints.weights import load_weights, random_weights
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.components.ldm_bert import LDM_BERT
from diffoundry.exporter.passes import OPSET
from diffoundry.exporter.steps.trace import trace
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.ldm_bert import LDMBertModel as Wrapper

TEXTS = ["", "the cat", "a very long running cat " * 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ldm")
    tokens = write_wordpiece(root / "source")
    config = LDMBertConfig(
        vocab_size=tokens, encoder_layers=2, encoder_ffn_dim=48, encoder_attention_heads=2, head_dim=16, d_model=24
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LDMBertModel(config).save_pretrained(root / "bert")
    write_tokenizer(root / "source", "BertTokenizer", root / "tokenizer")
    return root


def test_hidden_states_are_those_of_diffusers(folder):
    theirs = LDMBertModel.from_pretrained(folder / "bert").eval()
    module_class = LDM_BERT.classes[0]
    module = load_weights(folder / "bert", module_class, open_weights(folder / "bert", "transformers", {}, None))
    assert type(random_weights(folder / "bert", module_class, 3)) is LDMBertModel
    component = LDM_BERT.describe({"bert": complete_config(theirs.config.to_dict(), "LDMBertModel")})
    graph = trace(module, component, opset=OPSET)
    assert not [name for name in graph.graph.initializers if "to_logits" in name]
    opened = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    bundle = types.SimpleNamespace(
        root=folder,
        engines=lambda _: (),
        config=lambda _: theirs.config.to_dict(),
        has=lambda name: (folder / name).is_file(),
        file=lambda name: folder / name,
    )
    run = lambda _, feeds: {"last_hidden_state": opened.run(None, feeds)[0]}  # noqa: E731
    ours = Wrapper(types.SimpleNamespace(bundle=bundle, run=run, inputs=lambda _: component.inputs))
    assert (ours.name, ours.folder, ours.length) == ("bert", "tokenizer", 77)
    tokenizer = BertTokenizer.from_pretrained(folder / "source")
    ids = tokenizer(TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = theirs(ids)[0].numpy()
    given, truncated = ours.encode(TEXTS, 77)
    np.testing.assert_allclose(given, expected, atol=3e-5 * np.abs(expected).max())
    assert truncated[:2] == ("", "")
    assert truncated[2].startswith("running cat a very long")


def test_defaults_are_those_of_diffusers():
    config = LDMBertConfig()
    component = LDM_BERT.describe({"bert": {}})
    assert component.outputs[0].shape == ("batch", "sequence", config.d_model)
    assert component.usual == {"sequence": config.max_position_embeddings}
    with pytest.raises(
        ConfigError, match="bert/config.json: field 'd_model': got 'wide', expected a whole number from"
    ):
        LDM_BERT.describe({"bert": {"d_model": "wide"}})

"""Priors and the networks around them, as graphs run by the runtime's wrappers, against PyTorch."""

import json
import types
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel as TextProj
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig
from diffusers.pipelines.kandinsky.text_encoder import MultilingualCLIP as Multilingual
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer as Normalizer
from t5_tokenizer import write_xlm_roberta
from traced_networks import open_graph, portable_graph

from diffoundry.exporter.checkpoints.tokenizer_files import write_tokenizer
from diffoundry.exporter.checkpoints.weight_files import base_library
from diffoundry.exporter.checkpoints.weight_headers import open_weights
from diffoundry.exporter.checkpoints.weights import build_module, load_weights
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.components.image_normalizer import IMAGE_NORMALIZER
from diffoundry.exporter.components.multilingual_clip import multilingual_clip
from diffoundry.exporter.components.prior_transformer import prior_transformer
from diffoundry.exporter.components.unclip_text_proj import UNCLIP_TEXT_PROJ
from diffoundry.exporter.steps.weight_tables import save_tables
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.models.image_normalizer import StableUnCLIPImageNormalizer
from diffoundry.runtime.models.multilingual_clip import MultilingualCLIP
from diffoundry.runtime.models.prior_transformer import PriorTransformer
from diffoundry.runtime.models.roles import PRIOR
from diffoundry.runtime.models.unclip_text_proj import UnCLIPTextProjModel

PRIOR_SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "embedding_dim": 24,
    "num_embeddings": 9,
}
SHAP_E = {
    "additional_embeddings": 0,
    "added_emb_type": None,
    "norm_in_type": "layer",
    "embedding_proj_norm_type": "layer",
    "encoder_hid_proj_type": None,
    "time_embed_act_fn": "gelu",
    "embedding_proj_dim": 20,
    "clip_embed_dim": 48,
    "num_attention_heads": 4,
}
XLM_R = {
    "vocab_size": 402,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "transformerDimSize": 32,
    "imageDimSize": 24,
    "max_position_embeddings": 80,
}

CLOSE = 3e-6
"""Of numbers around 1."""


def random(make, *args, **kwargs):
    """A network whose weights are all random, those included that start as zeros."""
    torch.manual_seed(0)
    network = make(*args, **kwargs).eval().requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data = torch.randn(parameter.shape)
    return network


def make_session(kind, network, folder, **neighbours):
    """The graph of a network with its tables, opened by ONNX Runtime, as a bundle gives it to a wrapper."""
    config = network.config if isinstance(network.config, dict) else network.config.to_dict()
    config = complete_config(config, type(network).__name__)
    component = kind.describe({kind.source: config, **neighbours})
    opened = open_graph(portable_graph(network, component))
    place = folder / component.name
    place.mkdir(exist_ok=True)
    save_tables(network, component.tables, place)

    def run(name, feeds):
        assert name == component.name
        types_of = {spec.name: spec.dtype for spec in component.inputs}
        assert {key: str(array.dtype) for key, array in feeds.items()} == types_of
        return dict(zip([spec.name for spec in component.outputs], opened.run(None, feeds), strict=True))

    bundle = types.SimpleNamespace(
        root=folder,
        component=lambda role: component.name if role == component.role else role,
        config=lambda _: config,
        engines=lambda _: (),
        has=lambda name: (folder / name).is_file(),
        file=lambda name: folder / name,
    )
    return SimpleNamespace(bundle=bundle, run=run, component=component, inputs=lambda _: component.inputs)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def masks(rows, tokens):
    """1 for the first tokens, as many as the row's number says, 0 for padding."""
    return (np.arange(tokens) < np.array(rows)[:, None]).astype(np.float32)


def test_a_prior_that_reads_text(tmp_path):
    """As in Karlo, Kandinsky 2.1 and 2.2, and Stable unCLIP."""
    network = random(diffusers.PriorTransformer, **PRIOR_SIZES)
    session = make_session(prior_transformer(), network, tmp_path)
    prior = PriorTransformer(session)
    assert (session.component.role, prior.latent_shape(3)) == (PRIOR, (3, 24))
    for rows in ((3, 9, 5), (1,), (9, 9)):
        sample, mask = noise(len(rows), 24), masks(rows, 9)
        conditioning = {
            "proj_embedding": noise(len(rows), 24, seed=1),
            "encoder_hidden_states": noise(len(rows), 9, 24, seed=2),
        }
        tensors = {name: torch.from_numpy(array) for name, array in conditioning.items()}
        wanted = network(
            torch.from_numpy(sample),
            timestep=torch.tensor(801),
            attention_mask=torch.from_numpy(mask).bool(),
            **tensors,
        ).predicted_image_embedding
        got = prior(sample, 801.0, {**conditioning, "attention_mask": mask})
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=CLOSE)
    latents = network.post_process_latents(torch.from_numpy(sample)).numpy()
    np.testing.assert_allclose(prior.post_process_latents(sample), latents, rtol=0, atol=1e-6)
    save_tables(random(diffusers.PriorTransformer, clip_embed_dim=7, **PRIOR_SIZES), ("clip_mean",), tmp_path / "prior")
    with pytest.raises(BundleError, match=r"prior/tables.safetensors: got 'clip_mean' of shape \(1, 7\), expected"):
        prior.post_process_latents(sample)


def test_a_prior_without_text(tmp_path):
    """As in Shap-E, with other widths of input, condition and output."""
    network = random(diffusers.PriorTransformer, **{**PRIOR_SIZES, **SHAP_E})
    prior = PriorTransformer(make_session(prior_transformer(reads_text=False), network, tmp_path))
    assert prior.latent_shape(2) == (2, 9, 24)
    sample, condition = noise(2, 9, 24), noise(2, 20, seed=1)
    wanted = network(torch.from_numpy(sample), 17.0, torch.from_numpy(condition)).predicted_image_embedding
    got = prior(sample, 17.0, {"proj_embedding": condition})
    assert got.shape == (2, 9, 48)
    np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=CLOSE)


def test_the_projection_of_unclip(tmp_path):
    network = random(TextProj, clip_embeddings_dim=24, time_embed_dim=32, cross_attention_dim=40)
    project = UnCLIPTextProjModel(
        make_session(UNCLIP_TEXT_PROJ, network, tmp_path, text_encoder={"max_position_embeddings": 9})
    )
    for guided in (False, True):
        rows = 4 if guided else 2
        given = (noise(2, 24), noise(rows, 24, seed=1), noise(rows, 9, 24, seed=2))
        names = ("image_embeddings", "prompt_embeds", "text_encoder_hidden_states")
        tensors = {name: torch.from_numpy(array) for name, array in zip(names, given, strict=True)}
        states, labels = network(**tensors, do_classifier_free_guidance=guided)
        got = project(*given)
        assert got.encoder_hidden_states.shape == (rows, project.extra + 9, 40)
        np.testing.assert_allclose(got.encoder_hidden_states, states.numpy(), rtol=0, atol=CLOSE)
        np.testing.assert_allclose(got.class_labels, labels.numpy(), rtol=0, atol=CLOSE)


def test_the_image_normalizer(tmp_path):
    network = random(Normalizer, 24)
    normalizer = StableUnCLIPImageNormalizer(make_session(IMAGE_NORMALIZER, network, tmp_path))
    embeds = noise(3, 24)
    for name in ("scale", "unscale"):
        wanted = getattr(network, name)(torch.from_numpy(embeds)).numpy()
        np.testing.assert_allclose(getattr(normalizer, name)(embeds), wanted, rtol=1e-6, atol=1e-6)


def test_the_multilingual_encoder(tmp_path):
    write_xlm_roberta(tmp_path / "source")
    write_tokenizer(tmp_path / "source", "XLMRobertaTokenizerFast", tmp_path / "tokenizer")
    network = random(Multilingual, MCLIPConfig(**XLM_R))
    encoder = MultilingualCLIP(make_session(multilingual_clip(), network, tmp_path))
    assert (encoder.length, encoder.folder) == (512, "tokenizer")
    for tokens in (12, 77):
        prompts = encoder.encode(["a red apple", "", "a red apple on the table " * 9], tokens)
        ids = encoder.tokenizer(["a red apple", "", "a red apple on the table " * 9], max_length=tokens).input_ids
        mask = prompts.attention_mask
        np.testing.assert_array_equal(mask, ids != 1)
        wanted = network(torch.from_numpy(ids).long(), torch.from_numpy(mask).long())
        np.testing.assert_allclose(prompts.text_embeds, wanted[0].numpy(), rtol=0, atol=CLOSE)
        np.testing.assert_allclose(prompts.last_hidden_state, wanted[1].numpy(), rtol=0, atol=1e-5)
        assert [bool(text) for text in prompts.truncated] == [False, False, True]


def test_each_network_is_found_under_the_names_of_model_index(tmp_path):
    """Those that diffusers writes and those of published checkpoints, with the names of their weight files."""
    for network, entries in (
        (random(diffusers.PriorTransformer, **PRIOR_SIZES), ("diffusers:PriorTransformer",)),
        (
            random(TextProj, clip_embeddings_dim=24, time_embed_dim=32, cross_attention_dim=40),
            UNCLIP_TEXT_PROJ.classes,
        ),
        (random(Normalizer, 24), IMAGE_NORMALIZER.classes),
        (random(Multilingual, MCLIPConfig(**XLM_R)), multilingual_clip().classes),
    ):
        folder = tmp_path / type(network).__name__
        network.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        for entry in entries:
            library = base_library(*entry.split(":"))
            loaded = load_weights(folder, entry, open_weights(folder, library, config))
            built = build_module(folder, entry)
            assert type(loaded) is type(built) is type(network)
            for name, weight in network.state_dict().items():
                torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)

"""Components beyond Stable Diffusion 1 and 2: what another family needs is there without a change to this one."""

import json

import diffusers
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.component import ComponentKind, Family
from diffoundry.exporter.components.autoencoder_kl import VAE_DECODER, VAE_ENCODER
from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.unet import UNET
from diffoundry.exporter.families import lookup
from diffoundry.exporter.passes import OPSET
from diffoundry.exporter.tracing.trace import trace

ATOL = 3e-5  # as in test_trace.py

XL = Family(
    name="stable_diffusion_xl",
    components=(
        clip_text_encoder(hidden_states=True),
        clip_text_encoder(
            "text_encoder_2", model_class="CLIPTextModelWithProjection", pooled="text_embeds", hidden_states=True
        ),
        UNET,
        VAE_ENCODER,
        VAE_DECODER,
    ),
    folders=("scheduler", "tokenizer", "tokenizer_2"),
)


def clip_config(width, projection):
    return transformers.CLIPTextConfig(
        vocab_size=99, bos_token_id=97, eos_token_id=98, hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=projection,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_sd_checkpoint):
    """A tiny checkpoint built like Stable Diffusion XL, with the guidance embedding of distilled ones."""
    root = tmp_path_factory.mktemp("tiny-xl")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=48,
        norm_num_groups=8,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
        time_cond_proj_dim=16,
    )
    unet.save_pretrained(root / "unet")
    transformers.CLIPTextModel(clip_config(16, 16)).save_pretrained(root / "text_encoder")
    transformers.CLIPTextModelWithProjection(clip_config(32, 24)).save_pretrained(root / "text_encoder_2")
    source = tiny_sd_checkpoint()
    for link in ("vae", "scheduler", "tokenizer", "tokenizer_2"):
        (root / link).symlink_to(source / link.removesuffix("_2"))
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lookup.FAMILIES, "StableDiffusionXLPipeline", f"{__name__}:XL")
        patch.setattr(lookup.importlib, "import_module", lambda _: type("module", (), {"XL": XL}))
        return Checkpoint.at(root, name="tiny-xl")


def run(graph, component, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), options)
    return opened.run(
        [spec.name for spec in component.outputs],
        {spec.name: tensor.numpy() for spec, tensor in zip(component.inputs, feeds, strict=True)},
    )


def test_the_family_is_a_declaration(checkpoint):
    assert [component.name for component in checkpoint.components] == [
        "text_encoder",
        "text_encoder_2",
        "unet",
        "vae_encoder",
        "vae_decoder",
    ]
    names = {name for _, name in checkpoint.bundle_files()}
    assert {"text_encoder_2/config.json", "tokenizer_2/vocab.json"} <= names
    assert all(isinstance(kind, ComponentKind) for kind in XL.components)


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_text_encoder_with_hidden_states(checkpoint, name):
    module, component = checkpoint.load(name), checkpoint.component(name)
    pooled = "text_embeds" if name == "text_encoder_2" else "pooler_output"
    assert [spec.name for spec in component.outputs] == [
        "last_hidden_state",
        pooled,
        "hidden_states.0",
        "hidden_states.1",
        "hidden_states.2",
    ]
    ids = torch.tensor([[97, 5, 98, 98, 98], [97, 6, 7, 98, 98], [97, 1, 2, 3, 98]], dtype=torch.int32)
    with torch.no_grad():
        wanted = module(ids.long(), output_hidden_states=True)
    expected = [wanted.last_hidden_state, wanted[pooled], *wanted.hidden_states]
    graph = trace(module, component, opset=OPSET)
    for given, tensor in zip(run(graph, component, [ids]), expected, strict=True):
        np.testing.assert_allclose(given, tensor.numpy(), rtol=0, atol=ATOL)


def test_unet_with_sizes_and_embedded_guidance(checkpoint):
    module, component = checkpoint.load("unet"), checkpoint.component("unet")
    shapes = {spec.name: spec.shape for spec in component.inputs}
    assert list(shapes) == ["sample", "timestep", "encoder_hidden_states", "timestep_cond", "text_embeds", "time_ids"]
    assert shapes["timestep_cond"] == ("batch", 16)
    assert shapes["text_embeds"] == ("batch", 24)
    assert shapes["time_ids"] == ("batch", 6)
    graph = trace(module, component, opset=OPSET)
    for height, width in ((8, 6), (5, 9)):
        sample, states = torch.randn(3, 4, height, width), torch.randn(3, 7, 48)
        guidance, pooled = torch.randn(3, 16), torch.randn(3, 24)
        sizes = torch.tensor([[64.0, 48.0, 0.0, 8.0, 64.0, 48.0]] * 3)
        with torch.no_grad():
            wanted = module(
                sample,
                801.0,
                states,
                timestep_cond=guidance,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            ).sample
        feeds = [sample, torch.tensor([801.0]), states, guidance, pooled, sizes]
        np.testing.assert_allclose(run(graph, component, feeds)[0], wanted.numpy(), rtol=0, atol=ATOL)

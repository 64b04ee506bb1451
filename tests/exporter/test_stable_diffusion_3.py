"""Components of Stable Diffusion 3 against diffusers and transformers, and checkpoints that are refused."""

import json
import shutil

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.passes import OPSET, optimize
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.steps.trace import trace
from diffoundry.runtime.bundle.specs import DimSpec, Variant
from diffoundry.runtime.errors import CheckpointError, ConfigError, InputError
from diffoundry.targets.base import usual_sizes

ATOL = 3e-5  # as in test_trace.py


@pytest.fixture(scope="module")
def checkpoint(tiny_sd_checkpoint):
    return Checkpoint.at(tiny_sd_checkpoint("sd3"), name="tiny-sd3")


@pytest.fixture
def changed(tiny_sd_checkpoint, tmp_path):
    """Copies the tiny checkpoint with other fields in a config: ("transformer", "in_channels", 32)."""

    def change(folder, key, value, file="config.json"):
        root = tmp_path / "changed"
        shutil.copytree(tiny_sd_checkpoint("sd3"), root)
        path = root / folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        return root

    return change


def compare(module, component, feeds, expected, graph=None):
    graph = graph or optimize(trace(module, component, opset=OPSET))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), options)
    (output,) = opened.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
    assert output.shape == tuple(expected.shape)
    np.testing.assert_allclose(output, expected.numpy(), atol=ATOL)
    return graph


def test_the_family_is_a_declaration(checkpoint):
    names = ["text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae_encoder", "vae_decoder"]
    assert [component.name for component in checkpoint.components] == names
    assert [checkpoint.component(name).network for name in names[1:4]] == [
        "CLIPTextModelWithProjection",
        "T5EncoderModel",
        "SD3Transformer2DModel",
    ]
    assert checkpoint.tokenizer_folders == ("tokenizer", "tokenizer_2", "tokenizer_3")
    sides = DimSpec(max=12 * 2 * 8, multiple_of=16)
    assert checkpoint.dims == {"height": sides, "width": sides}


def test_t5_encoder(checkpoint):
    module, component = checkpoint.load("text_encoder_3"), checkpoint.component("text_encoder_3")
    graph = None
    for rows, tokens in ((1, 5), (3, 256)):
        ids = torch.randint(0, 512, (rows, tokens), generator=torch.Generator().manual_seed(tokens), dtype=torch.int32)
        with torch.no_grad():
            expected = module(input_ids=ids.long()).last_hidden_state
        graph = compare(module, component, {"input_ids": ids}, expected, graph)
    assert usual_sizes(graph) == {"sequence": 256}


@pytest.mark.slow_cases("sd3.5")
@pytest.mark.parametrize("variant", ["sd3", "sd3.5"])
def test_transformer(tiny_sd_checkpoint, variant):
    checkpoint = Checkpoint.at(tiny_sd_checkpoint(variant), name=variant)
    module, component = checkpoint.load("transformer"), checkpoint.component("transformer")
    graph, random = None, torch.Generator().manual_seed(0)
    for rows, tokens, height, width in ((1, 5, 8, 8), (3, 40, 24, 10), (2, 333, 10, 24)):
        feeds = {
            "hidden_states": torch.randn(rows, 16, height, width, generator=random),
            "timestep": torch.tensor([501.25]),
            "encoder_hidden_states": torch.randn(rows, tokens, 96, generator=random),
            "pooled_projections": torch.randn(rows, 48, generator=random),
        }
        for skipped in ([], [0], [1]):
            with torch.no_grad():
                expected = module(**{**feeds, "timestep": feeds["timestep"].expand(rows)}, skip_layers=skipped).sample
            mask = torch.zeros(rows, 2)
            mask[:, skipped] = 1.0
            graph = compare(module, component, {**feeds, "skip_layers": mask}, expected, graph)
    assert usual_sizes(graph) == {"sequence": 333}


def test_vae_without_convolutions_around_latents(checkpoint):
    module, component = checkpoint.load("vae_decoder"), checkpoint.component("vae_decoder")
    latents = torch.randn(2, 16, 6, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        compare(module, component, {"latent_sample": latents}, module.decode(latents).sample)


def test_t5_may_be_left_out(tiny_sd_checkpoint):
    names = ["text_encoder", "text_encoder_2", "transformer", "vae_encoder", "vae_decoder"]
    lacking = Checkpoint.at(tiny_sd_checkpoint("sd3-without-t5"), name="x")
    spared = Checkpoint.at(tiny_sd_checkpoint("sd3"), name="x", without=("text_encoder_3",))
    for checkpoint in (lacking, spared):
        assert [component.name for component in checkpoint.components] == names
        assert checkpoint.tokenizer_folders == ("tokenizer", "tokenizer_2")
        index = checkpoint.bundle_model_index()
        assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
        assert reference_pipeline(checkpoint).text_encoder_3 is None
        assert checkpoint.notices() == []


def test_sizes_are_checked(checkpoint):
    variants = (Variant(target="onnxruntime", precision="fp32"),)
    dims = make_recipe(checkpoint, ExportRequest(variants=variants)).dims
    assert dims["width"] == DimSpec(min=16, max=192, multiple_of=16)
    for size, message in ((72, "width: got 72, expected a multiple of 16"), (208, "got 208, expected at most 192")):
        with pytest.raises(InputError, match=message):
            make_recipe(checkpoint, ExportRequest(variants=variants, dims={"width": DimSpec(min=size, max=size)}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("in_channels", 32, "'in_channels' and 'out_channels': got 32 and 16, expected 16 .* or 33 and 16"),
        ("pooled_projection_dim", 64, "'pooled_projection_dim': got 64, expected 48, the projection_dim of both CLIP"),
        ("pos_embed_max_size", None, "'pos_embed_max_size': got None, expected a number such as 192"),
    ],
)
def test_transformers_that_are_refused(changed, field, value, message):
    with pytest.raises(ConfigError, match=rf"transformer/config\.json: fields? {message}"):
        Checkpoint.at(changed("transformer", field, value), name="x")


def test_pipelines_that_are_refused(changed):
    root = changed(".", "_class_name", "StableDiffusion3PAGPipeline", "model_index.json")
    with pytest.raises(CheckpointError, match=r"StableDiffusion3PAG is not supported yet .*Stable Diffusion 3 \(text"):
        Checkpoint.at(root, name="x")


def test_the_alias_fits_its_classes():
    checkpoint = open_checkpoint("sd3-medium", random_weights=True)
    inputs = {spec.name: spec.shape for spec in checkpoint.component("transformer").inputs}
    assert inputs == {
        "hidden_states": ("batch", 16, "height/8", "width/8"),
        "timestep": (1,),
        "encoder_hidden_states": ("batch", "sequence", 4096),
        "pooled_projections": ("batch", 2048),
        "skip_layers": ("batch", 24),
    }
    assert checkpoint.dims["height"] == DimSpec(max=3072, multiple_of=16)
    assert [spec.shape for spec in checkpoint.component("text_encoder_3").outputs] == [("batch", "sequence", 4096)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": 3}, "'num_layers': got 3, but controlnet has 2; only residuals of as many blocks can be added"),
        ({"extra_conditioning_channels": 2}, "'extra_conditioning_channels': got 2, expected 0, or 1 for a mask"),
        (
            {"num_attention_heads": 3},
            "'num_attention_heads': got 3, but the transformer has 2; this Control",
        ),
        ({"joint_attention_dim": 64}, "'joint_attention_dim': got 64, but the transformer has 96; this ControlNet"),
        ({"in_channels": 4}, "'in_channels': got 4, but the VAE's latents have 16; this ControlNet was made"),
    ],
)
def test_controlnets_that_are_refused(tiny_sd_checkpoint, tiny_controlnet, tmp_path, fields, message):
    folder = shutil.copytree(tiny_controlnet("sd3-without-t5", "second"), tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    joined = [str(tiny_controlnet("sd3-without-t5", "first")), str(folder)]
    with pytest.raises(ConfigError, match=rf"controlnet_1/config\.json: field {message}"):
        Checkpoint.at(tiny_sd_checkpoint("sd3-without-t5"), name="x", controlnets=joined)


def test_the_class_is_that_of_the_controlnets(tiny_sd_checkpoint, tiny_controlnet):
    folder = tiny_sd_checkpoint("sd3-without-t5")
    for net, form in (("first", "ControlNet"), ("masked", "ControlNetInpainting")):
        checkpoint = Checkpoint.at(folder, name="x", controlnets=[str(tiny_controlnet("sd3-without-t5", net))])
        assert checkpoint.bundle_model_index()["_class_name"] == f"StableDiffusion3{form}Pipeline"
    with pytest.raises(CheckpointError, match="--controlnet: .* got a SD3ControlNetModel, expected a ControlNetModel"):
        Checkpoint.at(
            tiny_sd_checkpoint("sd1"), name="x", controlnets=[str(tiny_controlnet("sd3-without-t5", "first"))]
        )

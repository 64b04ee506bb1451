"""Components of Stable Diffusion XL: both text encoders with hidden states, and the UNet with its many inputs."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.passes import OPSET
from diffoundry.exporter.steps.trace import trace

ATOL = 3e-5  # as in test_trace.py


@pytest.fixture(scope="module")
def checkpoint(tiny_sd_checkpoint):
    """A tiny checkpoint built like Stable Diffusion XL, with the guidance embedding of distilled ones."""
    return Checkpoint.at(tiny_sd_checkpoint("xl-distilled"), name="tiny-xl")


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


def test_a_refiner_lacks_the_first_text_encoder(tiny_sd_checkpoint):
    refiner = Checkpoint.at(tiny_sd_checkpoint("xl-refiner"), name="tiny-refiner")
    assert [part.name for part in refiner.components] == ["text_encoder_2", "unet", "vae_encoder", "vae_decoder"]
    assert refiner.family.folders == ("scheduler", "tokenizer_2")
    assert refiner.component("unet").inputs[-1].shape == ("batch", 5)


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_text_encoder_with_hidden_states(checkpoint, name):
    module, component = checkpoint.load(name), checkpoint.component(name)
    pooled = "text_embeds" if name == "text_encoder_2" else "pooler_output"
    layers = 3 if name == "text_encoder_2" else 2
    states = [f"hidden_states.{layer}" for layer in range(layers + 1)]
    assert [spec.name for spec in component.outputs] == ["last_hidden_state", pooled, *states]
    end = 4294
    ids = torch.tensor([[97, 5, end, end, end], [97, 6, 7, end, end], [97, 1, 2, 3, end]], dtype=torch.int32)
    with torch.no_grad():
        wanted = module(ids.long(), output_hidden_states=True)
    expected = [wanted.last_hidden_state, wanted[pooled], *wanted.hidden_states]
    graph = trace(module, component, opset=OPSET)
    for given, tensor in zip(run(graph, component, [ids]), expected, strict=True):
        np.testing.assert_allclose(given, tensor.numpy(), rtol=0, atol=ATOL)


@pytest.mark.slow
def test_unet_with_sizes_and_embedded_guidance(checkpoint):
    module, component = checkpoint.load("unet"), checkpoint.component("unet")
    shapes = {spec.name: spec.shape for spec in component.inputs}
    assert list(shapes) == ["sample", "timestep", "encoder_hidden_states", "timestep_cond", "text_embeds", "time_ids"]
    assert shapes["timestep_cond"] == ("batch", 16)
    assert shapes["text_embeds"] == ("batch", 24)
    assert shapes["time_ids"] == ("batch", 6)
    graph = trace(module, component, opset=OPSET)
    for height, width in ((8, 6), (5, 9)):
        sample, states = torch.randn(3, 4, height, width), torch.randn(3, 7, 80)
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

"""UNet2DModel: every kind of its blocks, time embeddings and class labels, against PyTorch."""

import types

import numpy as np
import pytest
import torch
from traced_networks import call_network, config_of, describe, feeds_of, open_graph, portable_graph, relative_error
from unet_kinds import UNET_2D_KINDS

from diffoundry.exporter.components.unet_2d import unet_2d
from diffoundry.exporter.components.unet_module import UNetModule
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.roles import DENOISER, UPSCALER
from diffoundry.runtime.models.unet_2d import UNet2DModel

SIZES = ({"batch": 3, "height": 6, "width": 10}, {"batch": 1, "height": 8, "width": 8})


def labels(component):
    return [(spec.dtype, spec.shape) for spec in component.inputs if spec.name == "class_labels"]


def test_the_traced_module_computes_what_each_network_does():
    found = {}
    for name in UNET_2D_KINDS:
        network = UNET_2D_KINDS[name].make()
        component = describe(unet_2d(), network)
        found[name] = labels(component)
        for sizes in SIZES:
            feeds = feeds_of(component, **sizes)
            with torch.no_grad():
                (got,) = UNetModule(network, component)(*map(torch.from_numpy, feeds.values()))
            assert relative_error(got.numpy(), call_network(network, feeds)) < 1e-5, name
    assert found == {
        "DDPM": [],
        "learned timesteps, classes": [("int32", ("batch",))],
        "ScoreSdeVe": [],
        "Karlo's super-resolution": [("float32", ("batch",))],
        "consistency model": [("float32", ("batch", 40))],
    }


def test_pytorchs_numbers():
    """Of a kind with attention and labels; tests/targets/test_unets.py has all."""
    network = UNET_2D_KINDS["consistency model"].make()
    component = describe(unet_2d(), network)
    opened = open_graph(portable_graph(network, component))
    for sizes in SIZES:
        feeds = feeds_of(component, **sizes)
        assert relative_error(opened.run(None, feeds)[0], call_network(network, feeds)) < 1e-4


def test_its_folder_role_and_size_are_parameters():
    network = UNET_2D_KINDS["Karlo's super-resolution"].make()
    kind = unet_2d("super_res_first", role=UPSCALER)
    component = describe(kind, network)
    assert (component.name, component.source, component.role) == ("super_res_first", "super_res_first", "upscaler")
    assert component.inputs[0].shape == ("batch", 6, "height", "width")
    assert component.outputs[0].shape == ("batch", 3, "height", "width")
    assert component.sizes == {"height": DimSpec(multiple_of=2), "width": DimSpec(multiple_of=2)}
    latent = describe(unet_2d(), network, vqvae={"block_out_channels": [8, 8, 8]})
    assert latent.role == DENOISER
    assert latent.inputs[0].shape == ("batch", 6, "height/4", "width/4")
    assert latent.sizes["width"] == DimSpec(multiple_of=8)
    assert latent.usual == {}
    half = describe(unet_2d("first", dims=lambda _: ("height/2", "width/2")), network)
    assert half.inputs[0].shape[2:] == ("height/2", "width/2")
    assert (component.usual, half.usual) == ({"height": 8, "width": 8}, {"height": 16, "width": 16})


def test_unknown_kinds_are_refused():
    for field, value, expected in (
        ("class_embed_type", "projection", "'projection', expected null, 'timestep' or 'identity'"),
        ("time_embedding_type", "sine", "'sine', expected 'positional', 'fourier' or 'learned'"),
    ):
        with pytest.raises(ConfigError, match=f"unet/config.json: field '{field}': got {expected}"):
            unet_2d().describe({"unet": {field: value}})


class Session:
    """Runs PyTorch as the engine of a component."""

    def __init__(self, network, component):
        self.network, self.spec = network, component
        self.bundle = types.SimpleNamespace(component=lambda _: component.name, config=lambda _: config_of(network))

    def declared_inputs(self, _name):
        return self.spec.inputs

    inputs = declared_inputs

    def run(self, _name, feeds):
        types_of = {spec.name: spec.dtype for spec in self.spec.inputs}
        assert feeds.keys() == types_of.keys()
        feeds = {name: array.astype(types_of[name]) for name, array in feeds.items()}
        return {"out_sample": call_network(self.network, feeds)}


def test_the_wrapper_calls_each_network_as_a_pipeline_does():
    for name in UNET_2D_KINDS:
        network = UNET_2D_KINDS[name].make()
        component = describe(unet_2d(), network)
        wrapper = UNet2DModel(Session(network, component))
        feeds = feeds_of(component, batch=2, height=4, width=6)
        conditioning = {key: array for key, array in feeds.items() if key == "class_labels"}
        assert wrapper.takes_labels == bool(conditioning)
        np.testing.assert_array_equal(wrapper(feeds["sample"], 7.25, conditioning), call_network(network, feeds))
        assert wrapper.latent_shape(2, 4, 6) == (2, 3, 4, 6)
        assert (wrapper.sample_size, wrapper.size_multiple, wrapper.first_channels) == (
            (8, 8),
            2,
            network.config.block_out_channels[0],
        )
    classes = UNet2DModel(Session(UNET_2D_KINDS["learned timesteps, classes"].make(), component))
    assert classes.class_count == 5
    assert (classes.token_limit, classes.residual_inputs, classes.image_tokens((1, 3, 8, 8))) == (None, (), None)
    vae = types.SimpleNamespace(latent_channels=4, scale_factor=8)
    assert classes.latent_shape(1, 64, 32, vae) == (1, 4, 8, 4)


def test_its_component_may_be_named():
    network = UNET_2D_KINDS["DDPM"].make()
    session = Session(network, describe(unet_2d(), network))
    assert UNet2DModel(session, "super_res_last").component == "super_res_last"

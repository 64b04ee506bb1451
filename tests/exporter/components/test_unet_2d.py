"""UNet2DModel: every kind of its blocks, time embeddings and class labels, against PyTorch."""

import types

import diffusers
import numpy as np
import pytest
import torch
from traced_networks import call_network, config_of, describe, feeds_of, open_graph, portable_graph, relative_error

from diffoundry.exporter.components.unet_2d import unet_2d
from diffoundry.exporter.components.unet_module import UNetModule
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.roles import DENOISER, UPSCALER
from diffoundry.runtime.models.unet_2d import UNet2DModel

_USUAL = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}

KINDS = {
    "DDPM": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "learned timesteps, classes": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "time_embedding_type": "learned",
        "num_train_timesteps": 20,
        "num_class_embeds": 5,
        "attention_head_dim": None,
        "center_input_sample": True,
    },
    "ScoreSdeVe": {
        "block_out_channels": (32, 32),
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        "time_embedding_type": "fourier",
        "attention_head_dim": None,
        "mid_block_scale_factor": 1.41,
    },
    "Karlo's super-resolution": {
        "in_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "add_attention": False,
        "class_embed_type": "timestep",
    },
    "consistency model": {
        "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
        "class_embed_type": "identity",
        "time_embedding_dim": 40,
    },
}

SIZES = ({"batch": 3, "height": 6, "width": 10}, {"batch": 1, "height": 8, "width": 8})


def make(name):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**{**_USUAL, **KINDS[name]}).eval()


def labels(component):
    return [(spec.dtype, spec.shape) for spec in component.inputs if spec.name == "class_labels"]


def test_the_traced_module_computes_what_each_network_does():
    found = {}
    for name in KINDS:
        network = make(name)
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


@pytest.mark.parametrize(
    "name", ["consistency model", *(pytest.param(n, marks=pytest.mark.slow) for n in KINDS if n != "consistency model")]
)
def test_pytorchs_numbers(name):
    network = make(name)
    component = describe(unet_2d(), network)
    opened = open_graph(portable_graph(network, component))
    for sizes in SIZES:
        feeds = feeds_of(component, **sizes)
        assert relative_error(opened.run(None, feeds)[0], call_network(network, feeds)) < 1e-4


def test_its_folder_role_and_size_are_parameters():
    network = make("Karlo's super-resolution")
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
    quarter = describe(unet_2d(dims=lambda _: ("height/2", "width/2")), network)
    assert quarter.inputs[0].shape[2:] == ("height/2", "width/2")


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

    def run(self, _name, feeds):
        types_of = {spec.name: spec.dtype for spec in self.spec.inputs}
        assert feeds.keys() == types_of.keys()
        feeds = {name: array.astype(types_of[name]) for name, array in feeds.items()}
        return {"out_sample": call_network(self.network, feeds)}


def test_the_wrapper_calls_each_network_as_a_pipeline_does():
    for name in KINDS:
        network = make(name)
        component = describe(unet_2d(), network)
        wrapper = UNet2DModel(Session(network, component))
        feeds = feeds_of(component, batch=2, height=4, width=6)
        conditioning = {key: array for key, array in feeds.items() if key == "class_labels"}
        assert wrapper.takes_labels == bool(conditioning)
        np.testing.assert_array_equal(wrapper(feeds["sample"], 7.0, conditioning), call_network(network, feeds))
        assert wrapper.latent_shape(2, 4, 6) == (2, 3, 4, 6)
        assert (wrapper.sample_size, wrapper.size_multiple, wrapper.first_channels) == (
            (8, 8),
            2,
            network.config.block_out_channels[0],
        )
    classes = UNet2DModel(Session(make("learned timesteps, classes"), component))
    assert classes.class_count == 5
    assert (classes.token_limit, classes.residual_inputs, classes.image_tokens((1, 3, 8, 8))) == (None, (), None)
    vae = types.SimpleNamespace(latent_channels=4, scale_factor=8)
    assert classes.latent_shape(1, 64, 32, vae) == (1, 4, 8, 4)


def test_its_component_may_be_named():
    network = make("DDPM")
    session = Session(network, describe(unet_2d(), network))
    assert UNet2DModel(session, "super_res_last").component == "super_res_last"

"""UNet2DConditionModel: every kind of its conditions and blocks, against PyTorch."""

import types
from unittest import mock

import numpy as np
import pytest
import torch
from traced_networks import call_network, config_of, describe, feeds_of, open_graph, portable_graph, relative_error
from unet_kinds import UNET_KINDS

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.exporter.components.unet_module import UNetModule
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.runtime.bundle.specs import DimSpec, Variant
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel


def sizes_of(kind, component):
    """Two sizes and batches; odd ones where the network takes them."""
    factor = component.example["height"] // component.example[component.inputs[0].shape[2]]
    first = {"height": 5, "width": 9} if kind.any_size else {"height": 6, "width": 10}
    return (
        {"batch": 3, "sequence": 5, **{name: size * factor for name, size in first.items()}},
        {"batch": 1, "sequence": 9, "height": 8 * factor, "width": 4 * factor},
    )


def test_the_traced_module_computes_what_each_network_does():
    for name, kind in UNET_KINDS.items():
        network = kind.make()
        component = describe(kind.kind, network, **kind.neighbours)
        found = {spec.name: spec.shape[1:] for spec in component.inputs[2:]}
        assert (name, found) == (name, dict(kind.inputs))
        assert bool(component.sizes) != kind.any_size
        for sizes in sizes_of(kind, component):
            feeds = feeds_of(component, **sizes)
            with torch.no_grad():
                (got,) = UNetModule(network, component)(*map(torch.from_numpy, feeds.values()))
            assert relative_error(got.numpy(), call_network(network, feeds)) < 1e-5, name


def test_pytorchs_numbers():
    """Of a kind with an image and a hint; tests/targets/test_unets.py has all."""
    kind = UNET_KINDS["Kandinsky 2.2 with a hint"]
    network = kind.make()
    component = describe(kind.kind, network, **kind.neighbours)
    opened = open_graph(portable_graph(network, component))
    for sizes in sizes_of(kind, component):
        feeds = feeds_of(component, **sizes)
        assert relative_error(opened.run(None, feeds)[0], call_network(network, feeds)) < 1e-4


def test_the_wrapper_calls_each_network_as_a_pipeline_does():
    for kind in UNET_KINDS.values():
        network = kind.make()
        component = describe(kind.kind, network, **kind.neighbours)
        bundle = types.SimpleNamespace(
            component=lambda _, c=component: c.name, config=lambda _, n=network: config_of(n)
        )
        session = types.SimpleNamespace(
            bundle=bundle,
            inputs=lambda _, c=component: c.inputs,
            run=lambda _, feeds, n=network: {"out_sample": call_network(n, feeds)},
        )
        wrapper = UNet2DConditionModel(session)
        feeds = feeds_of(component, **sizes_of(kind, component)[1])
        conditioning = {key: array for key, array in feeds.items() if key not in ("sample", "timestep")}
        np.testing.assert_array_equal(wrapper(feeds["sample"], 7.25, conditioning), call_network(network, feeds))
        assert wrapper.in_channels == component.inputs[0].shape[1]
        assert wrapper.component == component.name
        if not kind.neighbours:
            assert wrapper.latent_shape(2, 8, 8) == (2, 3, 8, 8)


def test_blocks_of_old_configs_take_any_size():
    blocks = ["UNetResUpBlock2D", "UNetResCrossAttnUpBlock2D", "CrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D"]
    assert unet_2d_condition().describe({"unet": {"up_block_types": blocks}}).sizes == {}
    assert unet_2d_condition().describe({"unet": {"up_block_types": blocks[::-1]}}).sizes["height"].multiple_of == 8


def test_k_blocks_need_two_pixels_at_the_coarsest_level():
    kind = UNET_KINDS["upscaler x2"]
    component = describe(kind.kind, kind.make(), **kind.neighbours)
    dims = Checkpoint.dims.fget(types.SimpleNamespace(components=[component]))
    assert dims == dict.fromkeys(("height", "width"), DimSpec(min=16, multiple_of=8))
    variants = (Variant(target="onnxruntime", precision="fp32"),)
    checkpoint = mock.MagicMock(dims=dims)
    assert make_recipe(checkpoint, ExportRequest(variants=variants)).dims["width"] == dims["width"]
    wanted = {"height": DimSpec(min=8, max=8)}
    with pytest.raises(InputError, match="--height: got 8, expected at least 16 for this checkpoint"):
        make_recipe(checkpoint, ExportRequest(variants=variants, dims=wanted))


def test_a_condition_that_no_pipeline_feeds_is_refused():
    for fields, message in (
        ({"num_class_embeds": 7}, "field 'num_class_embeds': got 7, expected null: the pipeline .* no class_labels"),
        ({"class_embed_type": "identity"}, "field 'class_embed_type': got 'identity', expected null: the pipeline"),
        ({"class_embed_type": "x"}, "got 'x', expected null, 'timestep', 'identity', 'projection' or 'simple_proj"),
        ({"encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 8}, "this checkpoint has no image_embeds for it"),
        ({"encoder_hid_dim_type": "text_proj"}, "'encoder_hid_dim': got null, expected a whole number, since"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "expected null, 'text_proj', 'text_image_proj' or 'image_proj'"),
        ({"addition_embed_type": "image", "encoder_hid_dim": 8}, "got 'image', expected null: .* no image_embeds"),
        ({"addition_embed_type": "x"}, "got 'x', expected null, 'text', 'text_image', 'text_time', 'image' or"),
        ({"dual_cross_attention": True}, "'dual_cross_attention': got true, expected false: diffusers itself cannot"),
        ({"up_block_types": [1]}, r"field 'up_block_types': got \[1\], expected a list of names of blocks"),
    ):
        with pytest.raises(ConfigError, match=f"unet/config.json: .*{message}"):
            unet_2d_condition().describe({"unet": fields})


def test_contradictions_are_refused():
    image = {"feeds": ("image_embeds", "text_embeds", "hint")}
    for fields, message in (
        (
            {"addition_embed_type": "text_image", "encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 8},
            "got two widths of image_embeds, 8 and 1280, expected one",
        ),
        (
            {"addition_embed_type": "image_hint", "encoder_hid_dim": 8, "in_channels": 8},
            "got 'image_hint', which makes one latent of 8 pixels a side, but the VAE of 1",
        ),
    ):
        with pytest.raises(ConfigError, match=f"unet/config.json: .*{message}"):
            unet_2d_condition(**image).describe({"unet": fields})
    fields = {"addition_embed_type": "image_hint", "encoder_hid_dim": 8, "in_channels": 4}
    with pytest.raises(ConfigError, match="'in_channels': got 4, expected more than 4, the channels of the hint"):
        unet_2d_condition(**image).describe({"unet": fields, "movq": {"block_out_channels": [8] * 4}})

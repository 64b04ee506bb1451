"""Sizes of a checkpoint: from the graph's metadata and dimensions, and from the configs of components by their role."""

import json

import onnx_ir as ir
import pytest

from diffoundry.targets.base import USUAL_SIZES
from diffoundry.targets.default_sizes import DefaultSizes, folders_of_role, read_default_sizes

LATENTS = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 4, "height/8", "width/8"] x, float["(height+15)//16"] r) => (float[batch, 4, "height/8", "width/8"] y)
{ y = Relu (x) }
"""
IMAGE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 3, height, width] x) => (float[batch, 3, "height/4", "width/4"] y) { y = Relu (x) }
"""
TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, sequence] x) => (float[batch, sequence] y) { y = Relu (x) }
"""


@pytest.fixture
def bundle(tmp_path):
    """Factory: a folder with the configs of components."""

    def make(**configs):
        for name, config in configs.items():
            (tmp_path / name).mkdir(exist_ok=True)
            text = config if isinstance(config, str) else json.dumps(config)
            (tmp_path / name / "config.json").write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize("denoiser", ["unet", "transformer"])
@pytest.mark.parametrize(("text", "factor"), [(LATENTS, 8), (IMAGE, 4)])
def test_pixels_are_latents_times_the_factor_in_the_dimensions(bundle, denoiser, text, factor):
    folder = bundle(**{denoiser: {"sample_size": 96}})
    sizes = read_default_sizes(ir.from_onnx_text(text), folder)
    assert sizes == DefaultSizes(height=96 * factor, width=96 * factor, sequence=77)


def test_sizes_of_the_graph_itself_come_first(bundle):
    model = ir.from_onnx_text(LATENTS)
    model.metadata_props[USUAL_SIZES] = json.dumps({"height": 40, "width": 48})
    sizes = read_default_sizes(model, bundle(unet={"sample_size": 96}))
    assert sizes == DefaultSizes(height=40, width=48, sequence=77)


def test_a_denoiser_may_have_two_sides(bundle):
    sizes = read_default_sizes(ir.from_onnx_text(LATENTS), bundle(unet={"sample_size": [48, 64]}))
    assert (sizes.height, sizes.width) == (384, 512)


@pytest.mark.parametrize("config", [{}, {"sample_size": None}, {"sample_size": ["a", "b"]}, "no json", "[]"])
def test_configs_that_do_not_say(bundle, config):
    assert read_default_sizes(ir.from_onnx_text(LATENTS), bundle(unet=config)) == DefaultSizes()


def test_a_graph_without_pixels_has_no_height(bundle):
    assert read_default_sizes(ir.from_onnx_text(TEXT), bundle(unet={"sample_size": 64})).height is None


def test_tokens_are_those_of_the_graph_then_of_the_first_text_encoder(bundle):
    model = ir.from_onnx_text(TEXT)
    folder = bundle(text_encoder={"max_position_embeddings": 64}, text_encoder_2={"max_position_embeddings": 32})
    assert read_default_sizes(model, folder).sequence == 64
    model.metadata_props[USUAL_SIZES] = json.dumps({"sequence": 256})
    assert read_default_sizes(model, folder).sequence == 256


def test_folders_have_the_role_of_their_name(bundle):
    folder = bundle(transformer={}, vae_encoder={}, vae_decoder={}, text_encoder_2={}, text_encoder={})
    (folder / "unet.txt").write_text("")
    assert [path.name for path in folders_of_role(folder, "vae_encoder", "vae_decoder")] == [
        "vae_decoder",
        "vae_encoder",
    ]
    assert [path.name for path in folders_of_role(folder, "text_encoder")] == ["text_encoder", "text_encoder_2"]

"""Fields that a checkpoint's configs lack have the defaults of diffusers and transformers."""

import inspect

import diffusers
import pytest
import transformers

from diffoundry.exporter.components.clip_text import clip_text_encoder
from diffoundry.exporter.components.clip_vision import IMAGE_ENCODER
from diffoundry.exporter.components.residuals import layers_of_levels, residual_specs
from diffoundry.exporter.components.sd3_transformer import sd3_transformer
from diffoundry.exporter.components.t5_text import t5_text_encoder
from diffoundry.exporter.components.unet import UNET
from diffoundry.exporter.components.unet_2d import unet_2d
from diffoundry.exporter.components.vae import VAE_DECODER, VAE_ENCODER
from diffoundry.runtime.errors import ConfigError


def _defaults(cls):
    return {name: field.default for name, field in inspect.signature(cls.__init__).parameters.items()}


def _shapes(component):
    return {spec.name: spec.shape for spec in (*component.inputs, *component.outputs)}


def test_a_unet_without_fields():
    theirs = _defaults(diffusers.UNet2DConditionModel)
    configs = {"unet": {}, "vae": {"block_out_channels": [8] * 4}}
    shapes = _shapes(UNET.describe(configs))
    assert shapes["sample"][1] == theirs["in_channels"]
    assert shapes["out_sample"][1] == theirs["out_channels"]
    assert shapes["encoder_hidden_states"][2] == theirs["cross_attention_dim"]
    assert layers_of_levels(configs, "unet") == [theirs["layers_per_block"]] * len(theirs["block_out_channels"])
    assert residual_specs(configs, "unet")[-1].shape[1] == theirs["block_out_channels"][-1]


def test_a_unet_without_text_and_fields():
    theirs = _defaults(diffusers.UNet2DModel)
    component = unet_2d().describe({"unet": {}})
    shapes = _shapes(component)
    assert shapes["sample"] == ("batch", theirs["in_channels"], "height", "width")
    assert shapes["out_sample"][1] == theirs["out_channels"]
    assert component.sizes["height"].multiple_of == 2 ** (len(theirs["block_out_channels"]) - 1)
    assert list(shapes) == ["sample", "timestep", "out_sample"]


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderTiny"])
def test_a_vae_without_fields(name):
    theirs = _defaults(getattr(diffusers, name))
    configs = {"vae": {"_class_name": name}}
    levels = theirs.get("block_out_channels", theirs.get("decoder_block_out_channels"))
    decoder, encoder = _shapes(VAE_DECODER.describe(configs)), _shapes(VAE_ENCODER.describe(configs))
    factor = 2 ** (len(levels) - 1)
    latents = ("batch", theirs["latent_channels"], f"height/{factor}", f"width/{factor}")
    assert decoder["latent_sample"] == latents
    assert decoder["sample"][1] == theirs["out_channels"]
    assert encoder["sample"][1] == theirs["in_channels"]


def test_a_transformer_and_text_encoders_without_fields():
    theirs = _defaults(diffusers.SD3Transformer2DModel)
    clip, vision = transformers.CLIPTextConfig(), transformers.CLIPVisionConfig()
    width = theirs["pooled_projection_dim"] // 2
    encoders = {name: {"projection_dim": width} for name in ("text_encoder", "text_encoder_2")}
    configs = {"transformer": {}, "vae": {"latent_channels": 16}, **encoders}
    component = sd3_transformer(256).describe(configs)
    assert component.usual == {"sequence": clip.max_position_embeddings + 256}
    short = configs | {"text_encoder": {"projection_dim": width, "max_position_embeddings": 16}}
    assert sd3_transformer(256).describe(short).usual == {"sequence": 16 + 256}
    shapes = _shapes(component)
    assert shapes["hidden_states"][1] == theirs["in_channels"]
    assert shapes["encoder_hidden_states"][2] == theirs["joint_attention_dim"]
    assert shapes["pooled_projections"][1] == theirs["pooled_projection_dim"]
    text = _shapes(clip_text_encoder(hidden_states=True).describe({"text_encoder": {"_class_name": "CLIPTextModel"}}))
    assert text["last_hidden_state"][2] == clip.hidden_size
    assert f"hidden_states.{clip.num_hidden_layers}" in text
    assert f"hidden_states.{clip.num_hidden_layers + 1}" not in text
    image = _shapes(IMAGE_ENCODER.describe({"image_encoder": {}}))
    assert image["pixel_values"] == ("batch", vision.num_channels, vision.image_size, vision.image_size)
    assert image["image_embeds"][1] == vision.projection_dim
    t5 = _shapes(t5_text_encoder("text_encoder_3", tokens=9).describe({"text_encoder_3": {}}))
    assert t5["last_hidden_state"][2] == transformers.T5Config().d_model


def test_fields_of_another_kind_are_refused():
    for source, config, message in (
        ("unet", {"layers_per_block": [1, 2]}, r"field 'layers_per_block': got \[1, 2\], expected one number, or one"),
        ("vae", {"block_out_channels": [8] * 17}, "expected at most 16 levels"),
        ("vae", {"block_out_channels": 4}, "field 'block_out_channels': got 4, expected a list of 1 to 64"),
    ):
        with pytest.raises(ConfigError, match=f"{source}/config.json: .*{message}"):
            UNET.describe({"unet": {}, "vae": {}, source: config})

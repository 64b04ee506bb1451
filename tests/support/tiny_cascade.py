"""Tiny random checkpoints of both stages of Stable Cascade."""

import json

import diffusers
import transformers
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from tiny_checkpoints import EMOJI
from tiny_networks import text_encoder_projected

__all__ = ["CHANNELS", "WIDTH", "make_cascade_decoder", "make_cascade_prior", "open_cascade_decoder"]

WIDTH, CHANNELS = 24, 4
"""Numbers of a pooled prompt, and channels of the prior's latents."""

_RESNET = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
_ATTENTION = (*_RESNET, "SDCascadeAttnBlock")


def make_cascade_prior(folder, *, images=True):
    encoder = _text_encoder()
    prior = diffusers.StableCascadeUNet(
        in_channels=CHANNELS, out_channels=CHANNELS, timestep_ratio_embedding_dim=8, conditioning_dim=16,
        block_out_channels=(16, 16), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(_ATTENTION, _ATTENTION), clip_text_in_channels=encoder.config.hidden_size,
        clip_text_pooled_in_channels=WIDTH, clip_image_in_channels=20, switch_level=(False,),
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, image_size=32, projection_dim=20, intermediate_size=37, num_attention_heads=4,
        num_hidden_layers=1, patch_size=8,
    )  # fmt: skip
    extractor = transformers.CLIPImageProcessor(crop_size={"height": 32, "width": 32}, size={"shortest_edge": 32})
    diffusers.StableCascadePriorPipeline(
        tokenizer=transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        text_encoder=encoder,
        prior=_with_noise(prior),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        feature_extractor=extractor if images else None,
        image_encoder=transformers.CLIPVisionModelWithProjection(vision) if images else None,
    ).save_pretrained(folder)


def make_cascade_decoder(folder):
    decoder = diffusers.StableCascadeUNet(
        in_channels=4, out_channels=4, timestep_ratio_embedding_dim=8, patch_size=2, conditioning_dim=16,
        block_out_channels=(8, 8, 16), num_attention_heads=(0, 0, 2), down_num_layers_per_block=(1, 1, 1),
        up_num_layers_per_block=(1, 1, 1), down_blocks_repeat_mappers=(1, 1, 1), up_blocks_repeat_mappers=(2, 1, 1),
        block_types_per_layer=(_RESNET, _RESNET, _ATTENTION), clip_text_pooled_in_channels=WIDTH,
        effnet_in_channels=CHANNELS, pixel_mapper_in_channels=3, dropout=(0.0, 0.0, 0.1),
        timestep_conditioning_type=("sca",),
    )  # fmt: skip
    diffusers.StableCascadeDecoderPipeline(
        decoder=_with_noise(decoder),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        text_encoder=_text_encoder(),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=_with_noise(PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=16)),
    ).save_pretrained(folder)
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "vqgan": ["wuerstchen", "PaellaVQModel"]}))  # as the published one has it


def open_cascade_decoder(folder):
    """Open diffusers' pipeline. Version 0.42 does not find the class of the last network itself."""
    pipeline = diffusers.StableCascadeDecoderPipeline(
        decoder=diffusers.StableCascadeUNet.from_pretrained(folder / "decoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=transformers.CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder"),
        scheduler=diffusers.DDPMWuerstchenScheduler.from_pretrained(folder / "scheduler"),
        vqgan=PaellaVQModel.from_pretrained(folder / "vqgan"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _text_encoder():
    config = text_encoder_projected().config
    config.projection_dim = WIDTH
    return transformers.CLIPTextModelWithProjection(config)


def _with_noise(network):
    """Fill the weights that start at zero, so that their layers act."""
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.1)
    return network

"""Tiny random checkpoints of DeepFloyd IF, one a stage, and under the names of the classes that take images."""

import shutil
from functools import partial

import diffusers
import torch
import transformers
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker
from t5_tokenizer import write_sentencepiece
from tiny_networks import VISION, feature_extractor, text_encoder_t5

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = ["FIRST", "IF_CHECKPOINTS", "IF_IMAGE_CHECKPOINTS", "SECOND", "WIDTH"]

WIDTH = 96
"""Of T5's hidden states."""

FIRST, SECOND = "IFPipeline", "IFSuperResolutionPipeline"


def unet(**options):
    made = diffusers.UNet2DConditionModel(
        out_channels=6,
        block_out_channels=(16, 32),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=8,
        cross_attention_dim=32,
        cross_attention_norm="group_norm",
        encoder_hid_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        **options,
    )
    for parameter in made.parameters():
        if not parameter.any():  # biases, with which nothing would tell whether they are read
            parameter.data = 0.1 * torch.randn(parameter.shape)
    made.conv_out.weight.data *= 0.3  # guidance and the first step multiply the last bits of a noise
    return made


def checker():
    """With heads of which the images of seed 2 get every verdict."""
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(vision_config={**VISION, "projection_dim": 24}, text_config=text)
    made = IFSafetyChecker(config)
    for head, bias in ((made.p_head, -29.5), (made.w_head, 2.5)):
        head.weight.data *= 8
        head.bias.data[:] = bias
    return made


def scheduler(**options):
    return diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True,
        dynamic_thresholding_ratio=0.95, clip_sample=True, **options,
    )  # fmt: skip


def make(folder, name, network, **parts):
    """Write the checkpoint of a class; both have the same text encoder and safety checker."""
    tokenizer = folder / "source"
    write_sentencepiece(tokenizer)
    made = network()
    torch.manual_seed(1)
    getattr(diffusers, name)(
        tokenizer=open_tokenizer(tokenizer, "T5Tokenizer"),
        text_encoder=text_encoder_t5(),
        unet=made,
        safety_checker=checker(),
        feature_extractor=feature_extractor(),
        watermarker=None,
        **parts,
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)


def make_first(folder, name=FIRST):
    make(folder, name, lambda: unet(sample_size=8, in_channels=3), scheduler=scheduler(sample_max_value=1.5))


def make_second(folder, name=SECOND):
    network = lambda: unet(  # noqa: E731
        sample_size=16,
        in_channels=6,
        class_embed_type="timestep",
        only_cross_attention=True,
        time_embedding_act_fn="gelu",
        resnet_skip_time_act=True,
        resnet_out_scale_factor=1 / 0.7071,
        mid_block_scale_factor=1 / 0.7071,
    )
    noising = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    make(folder, name, network, scheduler=scheduler(), image_noising_scheduler=noising)


IF_CHECKPOINTS = {FIRST: make_first, SECOND: make_second}

IF_IMAGE_CHECKPOINTS = {
    name: partial(make_second if "Super" in name else make_first, name=name)
    for name in (
        "IFImg2ImgPipeline",
        "IFInpaintingPipeline",
        "IFImg2ImgSuperResolutionPipeline",
        "IFInpaintingSuperResolutionPipeline",
    )
}
"""The same networks under the classes that start from an image."""

"""Tiny networks of every kind of diffusers' UNets, each named after the pipeline whose network it resembles."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.exporter.components.unet_2d import unet_2d

_USUAL = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 2,
    "cross_attention_dim": 24,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}

_USUAL_2D = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}

_SIMPLE = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 8,
}

_LABELS = {"feeds": ("class_labels",)}
_IMAGE = {"feeds": ("image_embeds", "hint")}
_MOVQ = {"movq": {"block_out_channels": [8] * 4}}
_VAE = {"vae": {"block_out_channels": [8] * 3}}


@dataclasses.dataclass(frozen=True)
class UNetKind:
    """A kind of network.

    Attributes:
        options: Arguments of the network beside the usual ones.
        declared: Arguments of `unet_2d_condition`, or of `unet_2d`.
        neighbours: Configs of other networks of the checkpoint.
        inputs: Inputs beside sample and timestep, to the shape of a row; those without a kind are float32.
        any_size: False if height and width must be multiples of two.
        text: False for a `UNet2DModel`.
    """

    options: Mapping[str, Any]
    inputs: Mapping[str, tuple[Any, ...]]
    declared: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    neighbours: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    any_size: bool = True
    text: bool = True

    def make(self) -> Any:
        """The network, with the weights of seed 0."""
        import diffusers
        import torch

        torch.manual_seed(0)
        if self.text:
            return diffusers.UNet2DConditionModel(**{**_USUAL, **self.options}).eval()
        return diffusers.UNet2DModel(**{**_USUAL_2D, **self.options}).eval()

    @property
    def kind(self) -> Any:
        """Its declaration."""
        return (unet_2d_condition if self.text else unet_2d)(**self.declared)


_TEXT = {"encoder_hidden_states": ("sequence", 24)}

UNET_KINDS = {
    "upscaler x4": UNetKind(
        options={"in_channels": 7, "num_class_embeds": 5, "only_cross_attention": (True, False)},
        declared=_LABELS,
        neighbours=_VAE,
        inputs={**_TEXT, "class_labels": ()},
    ),
    "upscaler x2": UNetKind(
        options={
            "in_channels": 8,
            "out_channels": 5,
            "block_out_channels": (32, 32),
            "down_block_types": ("KDownBlock2D", "KCrossAttnDownBlock2D"),
            "mid_block_type": None,
            "up_block_types": ("KCrossAttnUpBlock2D", "KUpBlock2D"),
            "time_embedding_type": "fourier",
            "time_embedding_dim": 32,  # the coarsest K block is told by a width equal to this
            "time_cond_proj_dim": 12,
            "timestep_post_act": "gelu",
            "act_fn": "gelu",
            "norm_num_groups": None,
            "conv_in_kernel": 1,
            "conv_out_kernel": 1,
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": 8,
        },
        neighbours=_VAE,
        inputs={**_TEXT, "timestep_cond": (12,)},
        any_size=False,
    ),
    "Karlo's decoder": UNetKind(
        options={**_SIMPLE, "in_channels": 3, "out_channels": 6, "class_embed_type": "identity"},
        declared={"name": "decoder", "attention_mask": True, **_LABELS},
        inputs={**_TEXT, "attention_mask": ("sequence",), "class_labels": (64,)},
        any_size=False,
    ),
    "StableUnCLIP": UNetKind(
        options={
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 20,
            "use_linear_projection": True,
            "mid_block_type": "UNetMidBlock2D",
        },
        declared=_LABELS,
        neighbours=_VAE,
        inputs={**_TEXT, "class_labels": (20,)},
    ),
    "IF, stage 1": UNetKind(
        options={
            **_SIMPLE,
            "in_channels": 3,
            "out_channels": 6,
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 2,
            "encoder_hid_dim": 20,
            "cross_attention_norm": "group_norm",
            "cross_attention_dim": 32,
            "resnet_skip_time_act": True,
        },
        inputs={"encoder_hidden_states": ("sequence", 20)},
        any_size=False,
    ),
    "IF, stage 2": UNetKind(
        options={
            **_SIMPLE,
            "in_channels": 6,
            "out_channels": 6,
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 2,
            "encoder_hid_dim": 20,
            "encoder_hid_dim_type": "text_proj",
            "cross_attention_norm": "group_norm",
            "cross_attention_dim": 32,
            "class_embed_type": "timestep",
            "only_cross_attention": True,
            "mid_block_only_cross_attention": True,
            "mid_block_scale_factor": 1.414,
            "resnet_out_scale_factor": 1.414,
            "resnet_skip_time_act": True,
            "time_embedding_act_fn": "gelu",
            "act_fn": "gelu",
        },
        declared=_LABELS,
        inputs={"encoder_hidden_states": ("sequence", 20), "class_labels": ()},
        any_size=False,
    ),
    "Kandinsky 2.1": UNetKind(
        options={
            **_SIMPLE,
            "out_channels": 8,
            "addition_embed_type": "text_image",
            "encoder_hid_dim": 20,
            "encoder_hid_dim_type": "text_image_proj",
        },
        declared=_IMAGE | {"feeds": ("text_embeds", "image_embeds")},
        neighbours=_MOVQ,
        inputs={"encoder_hidden_states": ("sequence", 20), "image_embeds": (24,), "text_embeds": (24,)},
        any_size=False,
    ),
    "Kandinsky 2.2": UNetKind(
        options={
            **_SIMPLE,
            "out_channels": 8,
            "addition_embed_type": "image",
            "encoder_hid_dim": 20,
            "encoder_hid_dim_type": "image_proj",
        },
        declared=_IMAGE,
        neighbours=_MOVQ,
        inputs={"image_embeds": (20,)},
        any_size=False,
    ),
    "Kandinsky 2.2 with a hint": UNetKind(
        options={
            **_SIMPLE,
            "in_channels": 8,
            "out_channels": 8,
            "addition_embed_type": "image_hint",
            "encoder_hid_dim": 20,
            "encoder_hid_dim_type": "image_proj",
        },
        declared=_IMAGE,
        neighbours=_MOVQ,
        inputs={"image_embeds": (20,), "hint": (3, "height", "width")},
        any_size=False,
    ),
    "labels beside timesteps": UNetKind(
        options={
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": 20,
            "class_embeddings_concat": True,
            "center_input_sample": True,
            "time_embedding_dim": 40,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "cross_attention_dim": [24, 24],
            "down_block_types": ("AttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "AttnUpBlock2D"),
        },
        declared=_LABELS,
        neighbours=_VAE,
        inputs={**_TEXT, "class_labels": (20,)},
    ),
}

UNET_2D_KINDS = {
    "DDPM": UNetKind(
        options={
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        inputs={},
        any_size=False,
        text=False,
    ),
    "learned timesteps, classes": UNetKind(
        options={
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "time_embedding_type": "learned",
            "num_train_timesteps": 20,
            "num_class_embeds": 5,
            "attention_head_dim": None,
            "center_input_sample": True,
        },
        inputs={"class_labels": ()},
        any_size=False,
        text=False,
    ),
    "ScoreSdeVe": UNetKind(
        options={
            "block_out_channels": (32, 32),
            "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
            "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
            "time_embedding_type": "fourier",
            "attention_head_dim": None,
            "mid_block_scale_factor": 1.41,
        },
        inputs={},
        any_size=False,
        text=False,
    ),
    "Karlo's super-resolution": UNetKind(
        options={
            "in_channels": 6,
            "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
            "up_block_types": ("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
            "resnet_time_scale_shift": "scale_shift",
            "add_attention": False,
            "class_embed_type": "timestep",
        },
        inputs={"class_labels": ()},
        any_size=False,
        text=False,
    ),
    "consistency model": UNetKind(
        options={
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
        inputs={"class_labels": (40,)},
        any_size=False,
        text=False,
    ),
}

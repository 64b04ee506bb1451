"""Opens a ControlNet in one safetensors file; its config follows from the checkpoint's UNet."""

from diffoundry.exporter.checkpoints.component_file import (
    OutsideNetwork,
    open_component_file,
    place_network,
    starts_with,
)
from diffoundry.exporter.checkpoints.single_file.architectures import FilePart
from diffoundry.exporter.checkpoints.single_file.detect import describe_tensors
from diffoundry.exporter.component import Config
from diffoundry.exporter.components.controlnet import CONTROLNET_CLASS
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["open_controlnet_file"]

_SHARED = (
    "act_fn", "addition_embed_type", "addition_time_embed_dim", "attention_head_dim", "block_out_channels",
    "class_embed_type", "cross_attention_dim", "down_block_types", "downsample_padding", "encoder_hid_dim",
    "encoder_hid_dim_type", "flip_sin_to_cos", "freq_shift", "layers_per_block", "mid_block_scale_factor",
    "mid_block_type", "norm_eps", "norm_num_groups", "num_attention_heads", "num_class_embeds", "only_cross_attention",
    "projection_class_embeddings_input_dim", "resnet_time_scale_shift", "transformer_layers_per_block",
    "upcast_attention", "use_linear_projection",
)  # fmt: skip
"""Fields that a ControlNet has from its UNet; diffusers: `ControlNetModel.from_unet`."""

_OTHERS = {
    "a Control-LoRA": ("lora_controlnet",),
    "a ControlNet stored as the difference to its checkpoint": ("difference",),
    "a ControlNet-LLLite": ("lllite_",),
    "a ControlNet union": ("task_embedding", "transformer_layes.", "control_add_embedding."),
}
"""Other kinds, by the beginning of a tensor's name."""


_KNOWN = "a ControlNet in the names of diffusers or of its original code (control_model.*)"


def open_controlnet_file(text: str, source: str, unet: Config) -> OutsideNetwork:
    """Open a ControlNet in the names of diffusers or of its original code.

    Args:
        text: The file.
        source: Name of the component, such as "controlnet".
        unet: config.json of the checkpoint's UNet.

    Raises:
        CheckpointError: It is pickled, damaged, or no ControlNet.
    """
    file = open_component_file("--controlnet", text)
    for kind, beginnings in _OTHERS.items():
        if starts_with(file, *beginnings):
            raise CheckpointError(f"--controlnet {text}: looks like {kind}, which is not supported; expected {_KNOWN}")
    if starts_with(file, "controlnet_cond_embedding."):
        blocks = [f"controlnet_cond_embedding.blocks.{number}" for number in range(1, 99, 2)]
        steps = ("controlnet_cond_embedding.conv_in", *blocks)
        return place_network(file, source, _config(file, unet, "conv_in", steps), None)
    prefix = "control_model." if starts_with(file, "control_model.") else ""
    if not starts_with(file, f"{prefix}input_hint_block."):
        raise CheckpointError(f"--controlnet {text}: {describe_tensors(file.entries)}; expected {_KNOWN}")
    steps = tuple(f"{prefix}input_hint_block.{number}" for number in range(0, 99, 4))
    part = FilePart(source=source, title="ControlNet", layout="controlnet", prefixes=(prefix,))
    return place_network(file, source, _config(file, unet, f"{prefix}input_blocks.0.0", steps), part)


def _config(file: Safetensors, unet: Config, first: str, steps: tuple[str, ...]) -> Config:
    """Make config.json.

    Args:
        file: The opened file.
        unet: Config of the UNet.
        first: Name of the first convolution over latents.
        steps: Names of the convolutions over the control image that change its channels, more than there are.
    """
    widths = []
    for step in steps:
        entry = file.entries.get(f"{step}.weight")
        if entry is None or len(entry.shape) != 4:
            break
        widths.append(entry.shape[0])
    entry = file.entries.get(f"{first}.weight")
    channels = entry.shape[1] if entry is not None and len(entry.shape) == 4 else 4
    return {
        "_class_name": CONTROLNET_CLASS,
        **{key: unet[key] for key in _SHARED if key in unet},
        "in_channels": channels,
        "conditioning_embedding_out_channels": widths,
    }

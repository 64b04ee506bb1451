"""Detects the architecture of a single file from the names and shapes of its tensors, or the kind of another file.

diffusers: `loaders.single_file_utils.infer_diffusers_model_type`, which treats unknown files as version 1.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.single_file import architectures
from diffoundry.exporter.checkpoints.single_file.architectures import UNET_PREFIX, Architecture
from diffoundry.runtime.errors import CheckpointError

__all__ = ["Shapes", "describe_tensors", "find_architecture"]

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor of a file to its shape."""

_NOT_ALONE = {
    "a LoRA, which is added to a checkpoint with --lora": (
        "lora_unet_",
        "lora_te",
        ".lora_A.",
        ".lora_down.",
        ".lora.up.",
    ),
    "a ControlNet": ("control_model.", "controlnet_", "input_hint_block.", "control_"),
    "an embedding (textual inversion)": ("emb_params", "string_to_param"),
    "a motion module of AnimateDiff": ("motion_modules.",),
}
"""Files that are no checkpoints, by a part of the names of their tensors."""

_OTHERS = {
    "Stable Diffusion 3": ("joint_blocks.",),
    "Flux.2": ("single_stream_modulation.lin.weight",),
    "Chroma": ("distilled_guidance_layer.",),
    "HunyuanVideo": ("txt_in.individual_token_refiner.",),
    "Flux": ("double_blocks.0.img_attn.",),
    "AuraFlow": ("double_layers.0.attn.w2q.",),
    "HiDream": ("double_stream_blocks.0.block.",),
    "Mochi": ("blocks.0.attn.qkv_x.",),
    "Stable Cascade": ("clip_txt_mapper.", "down_blocks.0.0.channelwise."),
    "Lumina 2 or Z-Image": ("cap_embedder.0.",),
    "LTX-Video": ("patchify_proj.", "scale_shift_table"),
    "Wan": ("head.modulation",),
    "Sana": ("blocks.0.cross_attn.q_linear.",),
    "Cosmos": ("net.x_embedder.proj.",),
    "Qwen-Image or Krea": ("txt_in.text_norm.", "txtfusion.projector."),
}
"""Unsupported architectures, by a part of the names of their tensors; the first match counts."""

_ALONE = {
    "one network in diffusers' names, which belongs into a diffusers folder": ("down_blocks.0.resnets.", "mid_block."),
    "a VAE alone": ("encoder.down.0.block.", "decoder.up.0.block."),
    "a text encoder alone": ("text_model.encoder.layers.", "transformer.resblocks."),
}

_OTHER_CHANNELS = {
    5: "one conditioned on depth (StableDiffusionDepth2ImgPipeline)",
    7: "an upscaler (StableDiffusionUpscalePipeline)",
}


class _Look(NamedTuple):
    """Features that tell architectures apart: the UNet's width, its text width, and its number of extra inputs (XL)."""

    width: int
    text: int | None
    numbers: int | None

    def __str__(self) -> str:
        beside = "" if self.numbers is None else f" and with {self.numbers} further numbers"
        return f"of width {self.width} for text of width {self.text}{beside}"


def find_architecture(path: Path, shapes: Shapes, given: Collection[str] = ()) -> tuple[Architecture, int]:
    """Detect the architecture of a file, and the number of channels that its UNet takes.

    Args:
        path: Used in messages.
        shapes: Shapes of all its tensors.
        given: Networks from elsewhere, which the file may lack.

    Raises:
        CheckpointError: It is of another kind, which the message names when known, or lacks a network.
    """
    first = shapes.get(f"{UNET_PREFIX}input_blocks.0.0.weight", ())
    if len(first) != 4:
        raise CheckpointError(
            f"{path}: {describe_tensors(shapes)}; expected {_known()} with all its networks in one file"
        )
    if any(name.startswith(("edm_mean", "edm_vpred.")) for name in shapes):
        raise CheckpointError(
            f"{path}: looks like a checkpoint of EDM's preconditioning (Playground 2.5 and its kind), which is not "
            f"supported; expected {_known()}"
        )
    width, channels = first[:2]
    look = _Look(width, _text_width(shapes), _numbers(shapes))
    found = next((known for known in architectures.ARCHITECTURES if _look_of(known) == look), None)
    if found is None:
        raise CheckpointError(f"{path}: got a UNet {look}, expected {_known()}; nothing else is supported")
    if channels not in found.pipelines:
        known = " or ".join(str(number) for number in found.pipelines)
        other = _OTHER_CHANNELS.get(channels)
        raise CheckpointError(
            f"{path}: got a UNet of {found.name} that takes {channels} channels, expected {known}"
            f"{f'; it looks like {other}, which is not supported' if other else ''}"
        )
    _check_parts(path, found, shapes, given)
    return found, channels


def _check_parts(path: Path, found: Architecture, shapes: Shapes, given: Collection[str]) -> None:
    needed = (part for part in found.parts if part.source not in given)
    absent = [part for part in needed if not any(name.startswith(part.prefixes) for name in shapes)]
    if absent:
        titles = " and ".join(part.title for part in absent)
        names = ", ".join(f"{part.prefixes[0]}*" for part in absent)
        raise CheckpointError(
            f"{path}: got {found.name} without its {titles} (no tensors {names}), expected all networks in one file; "
            f"it was pruned, fetch the full one{', or name a VAE with --vae' if absent[-1].source == 'vae' else ''}"
        )


def _look_of(architecture: Architecture) -> _Look:
    config = read_json(architecture.configs / "unet/config.json")
    numbers = config.get("projection_class_embeddings_input_dim")
    return _Look(config["block_out_channels"][0], config["cross_attention_dim"], numbers)


def _text_width(shapes: Shapes) -> int | None:
    widths = (
        shape[1]
        for name, shape in shapes.items()
        if name.startswith(UNET_PREFIX) and name.endswith(".attn2.to_k.weight") and len(shape) == 2
    )
    return next(widths, None)


def _numbers(shapes: Shapes) -> int | None:
    shape = shapes.get(f"{UNET_PREFIX}label_emb.0.0.weight", ())
    return shape[1] if len(shape) == 2 else None


def describe_tensors(shapes: Collection[str]) -> str:
    """Describe a file by the names of its tensors, for messages: "looks like a LoRA, ..."."""
    for kinds in (_NOT_ALONE, _OTHERS, _ALONE):
        for kind, marks in kinds.items():
            if any(mark in name for name in shapes for mark in marks):
                return f"looks like {kind}{', which is not supported' if kinds is _OTHERS else ''}"
    if any(name.startswith(UNET_PREFIX) for name in shapes):
        return f"got tensors of no UNet that is known ({_groups(shapes)})"
    return f"got no UNet ({_groups(shapes)})" if shapes else "got no tensors"


def _groups(names: Iterable[str]) -> str:
    """Summarize the prefixes of tensor names, the most frequent first."""
    counts = Counter(".".join(name.split(".")[:2])[:60] for name in names)
    some = ", ".join(f"{count} of {name}.*" for name, count in counts.most_common(3))
    return f"tensors: {some}{' ...' if len(counts) > 3 else ''}"


def _known() -> str:
    return ", ".join(known.name for known in architectures.ARCHITECTURES)

"""Names of a UNet's weights in the original code of latent diffusion, and in files that follow it.

Rombach et al. 2022, https://github.com/CompVis/latent-diffusion, `ldm.modules.diffusionmodules.openaimodel`. diffusers:
`loaders.single_file_utils.convert_ldm_unet_checkpoint`, the other way round.
"""

from collections.abc import Collection

__all__ = ["ldm_unet_names"]

_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""Modules outside the blocks."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""Modules of a residual block; those of attentions have the same names on both sides."""


def ldm_unet_names(names: Collection[str], layers_per_block: int) -> dict[str, str]:
    """Map module or weight names to their original names; names that the original lacks are left out.

    Args:
        names: diffusers' names, such as "down_blocks.0.resnets.0.conv1", with or without ".weight". All of one UNet:
            an upsampler's index depends on whether its block has attentions.
        layers_per_block: As in the UNet's config.
    """
    with_attention = {
        int(name.split(".")[1]) for name in names if name.startswith("up_blocks.") and ".attentions." in name
    }
    found = {name: _original(name, layers_per_block, with_attention) for name in names}
    return {name: original for name, original in found.items() if original is not None}


def _original(name: str, layers: int, with_attention: Collection[int]) -> str | None:
    for ours, theirs in _OUTSIDE.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    head, *rest = name.split(".")
    if head == "mid_block" and len(rest) > 2:
        kind, index, *inner = rest
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
        return ".".join([place, *_inner(kind, inner)])
    if head not in ("down_blocks", "up_blocks") or len(rest) < 4:
        return None
    block, kind, index, *inner = rest
    first = int(block) * (layers + 1)
    if kind == "downsamplers":
        return ".".join([f"input_blocks.{1 + first + layers}.0.op", *inner[1:]])
    if kind == "upsamplers":
        return ".".join([f"output_blocks.{first + layers}.{2 if int(block) in with_attention else 1}", *inner])
    place = f"input_blocks.{1 + first + int(index)}" if head == "down_blocks" else f"output_blocks.{first + int(index)}"
    return ".".join([place, "1" if kind == "attentions" else "0", *_inner(kind, inner)])


def _inner(kind: str, parts: list[str]) -> list[str]:
    return [_RESNET.get(parts[0], parts[0]), *parts[1:]] if kind == "resnets" else parts

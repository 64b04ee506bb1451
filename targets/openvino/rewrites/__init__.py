"""Rewrites of an imported graph for OpenVINO's plugins. Each was measured to pay, but for one that avoids a crash."""

from collections.abc import Collection

from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.rewrites.add_before_split import add_before_split
from diffoundry.targets.openvino.rewrites.join_linears import join_linears
from diffoundry.targets.openvino.rewrites.resize_conv import merge_upsampling
from diffoundry.targets.openvino.rewrites.share_time_embedding import share_time_embedding
from diffoundry.targets.openvino.rewrites.split_gated_linear import split_linears
from diffoundry.targets.openvino.rewrites.widen_heads import widen_heads

__all__ = [
    "add_before_split",
    "join_linears",
    "merge_upsampling",
    "rewrite",
    "share_time_embedding",
    "split_linears",
    "widen_heads",
]


def rewrite(model: ov.Model, *, doubling: Collection[str] = (), wide_heads: bool = False) -> dict[str, int]:
    """Apply every rewrite in place, and return how often each found something, in words.

    Args:
        model: As imported from a portable graph.
        doubling: Friendly names of the Interpolates that double whatever they are given.
        wide_heads: True if a matrix unit for bf16 will run the attention.
    """
    found = {
        "gated layers split": split_linears(model),
        "heads widened": widen_heads(model) if wide_heads else 0,  # before the join: it looks for single projections
        "timesteps shared": share_time_embedding(model),  # before the join: it leaves one row
        "layers joined": join_linears(model),
        "upsamplings merged": merge_upsampling(model, doubling),
        "scales before splits": add_before_split(model),
    }
    model.validate_nodes_and_infer_types()
    return {words: count for words, count in found.items() if count}

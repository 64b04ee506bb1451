"""The ordered list of passes."""

import onnx_ir as ir
from onnx_ir.passes import common

from diffoundry.exporter.passes.attention_mask import SimplifyAttentionMask
from diffoundry.exporter.passes.deduplicate_constants import DeduplicateConstants
from diffoundry.exporter.passes.expand_attention_mask import ExpandAttentionMask
from diffoundry.exporter.passes.fold_constants import FoldConstants
from diffoundry.exporter.passes.fuse_attention import FuseAttention
from diffoundry.exporter.passes.fuse_group_norm import FuseGroupNorm
from diffoundry.exporter.passes.merge_redundant_ops import MergeRedundantOps
from diffoundry.exporter.passes.move_shape_reads import MoveShapeReads
from diffoundry.exporter.passes.name_nodes import NameNodes
from diffoundry.exporter.passes.reshape_constants import ReshapeConstants
from diffoundry.exporter.passes.split_concats import SplitConcats
from diffoundry.exporter.passes.transpose_weights import TransposeWeights

__all__ = ["optimize", "portable_passes"]

_ROUNDS = 3


def portable_passes() -> tuple[ir.passes.PassBase, ...]:
    """List the passes that make a traced graph portable and small, in their order."""
    clean = ir.passes.PassManager(
        [
            FoldConstants(),  # first: every rule below looks at shapes and constants
            SplitConcats(),  # after folding: a part that is constant goes on as one
            MergeRedundantOps(),  # after folding: its rules test for the constants 0 and 1
            common.IdentityEliminationPass(),  # removes the Identities that rules leave
            ReshapeConstants(),  # after the views were merged: their shapes are final
            common.RemoveUnusedNodesPass(),  # the shape arithmetic that no Reshape reads any more
        ],
        steps=_ROUNDS,
        early_stop=True,
    )
    return (
        common.InlinePass(),  # torch's exporter calls functions; passes need one flat graph
        TransposeWeights(),  # before folding, which would copy the weights and lose their names
        clean,
        FuseAttention(),  # needs constant scales; before the mask is looked at
        SimplifyAttentionMask(),  # needs the folded mask
        ExpandAttentionMask(),  # of the masks that are left
        FuseGroupNorm(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),  # one place for constants
        MoveShapeReads(),  # before equal nodes are found
        DeduplicateConstants(),  # so that equal nodes can be found
        common.CommonSubexpressionEliminationPass(),  # SiLU of the time embedding, once instead of per block
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        NameNodes(),  # once the nodes are final
        common.OutputFixPass(),  # a graph output may not be an input or an initializer
        common.NameFixPass(),
    )


def optimize(graph: ir.Model) -> ir.Model:
    """Apply `portable_passes` in place and return the same graph."""
    return ir.passes.Sequential(*portable_passes())(graph).model

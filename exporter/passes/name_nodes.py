"""Names nodes after the torch modules that they come from."""

import ast
import logging
from collections import Counter

import onnx_ir as ir

__all__ = ["NameNodes"]

logger = logging.getLogger(__name__)

_SCOPES = "pkg.torch.onnx.name_scopes"


class NameNodes(ir.passes.InPlacePass):
    """Gives each node the path of its torch module and its operator as its name.

    Given:
        node_conv2d_1 = Conv        # its scopes: ['', 'down_blocks.0', 'down_blocks.0.resnets.0.conv1', 'conv2d_1']
    Result:
        down_blocks.0.resnets.0.conv1/Conv

    So a name in a keep-list or in a recipe says what it means, and holds across torch versions, which number nodes
    anew. The second node of an operator in a module gets "/Conv_2". Nodes without a scope keep their name.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename every node that has a scope."""
        seen: Counter[str] = Counter()
        modified = False
        for node in model.graph:
            scopes = node.metadata_props.get(_SCOPES)
            if scopes is None:
                logger.debug("%s has no scope", node.name)
                continue
            name = "/".join(part for part in (_module(scopes), node.op_type) if part)
            seen[name] += 1
            if seen[name] > 1:
                name = f"{name}_{seen[name]}"
            modified |= node.name != name
            node.name = name
        return ir.passes.PassResult(model, modified)


def _module(scopes: str) -> str:
    """The innermost module of the list of scopes, whose last entry is torch's own name of the node."""
    names = ast.literal_eval(scopes)[:-1]
    return next((name for name in reversed(names) if name and not name.startswith("_")), "")

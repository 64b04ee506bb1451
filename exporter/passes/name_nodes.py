"""Names nodes after their torch modules."""

import logging
from collections import Counter

import onnx_ir as ir

from diffoundry.exporter.steps.graph_names import MODULE_KEY

__all__ = ["NameNodes"]

logger = logging.getLogger(__name__)


class NameNodes(ir.passes.InPlacePass):
    """Sets the name of each node to the path of its torch module and its operator.

    Given:
        node_conv2d_1 = Conv                        # metadata: diffoundry.module = down_blocks.0.resnets.0.conv1
    Result:
        down_blocks.0.resnets.0.conv1/Conv

    Names in a keep-list or recipe are thus readable, and stay valid across torch versions, which number nodes
    differently. The second node of an operator in a module gets "/Conv_2". Nodes of no module keep their name.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename every node whose module is known."""
        seen: Counter[str] = Counter()
        modified = False
        for node in model.graph:
            module = node.metadata_props.get(MODULE_KEY)
            if module is None:
                logger.debug("%s belongs to no module", node.name)
                continue
            name = f"{module}/{node.op_type}"
            seen[name] += 1
            if seen[name] > 1:
                name = f"{name}_{seen[name]}"
            modified |= node.name != name
            node.name = name
        return ir.passes.PassResult(model, modified)

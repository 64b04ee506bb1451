"""Computes one time embedding for the whole batch."""

from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.nodes import constant, nodes_of, replace, sizes

__all__ = ["share_time_embedding"]

_ELEMENTWISE = frozenset(
    {"Multiply", "Add", "Sin", "Cos", "Swish", "Gelu", "Sigmoid", "Relu", "MatMul", "FakeQuantize"}
)
_AXIS = {"Unsqueeze": 1, "Slice": 4}
"""Index of the input that names an operator's axes."""


def share_time_embedding(model: ov.Model) -> int:
    """Leave out the Broadcast of one timestep to the batch, and return how many were left out.

    Given:
        t = Broadcast(timestep, batch)                # timestep: (1,)
        h = Add(Convolution(x), Unsqueeze(embed(t)))  # embed(t): (batch, 320)
    Result:
        h = Add(Convolution(x), Unsqueeze(embed(timestep)))                # embed(timestep): (1, 320)

    It makes all sizes of the time embedding known, and its projections views of one product (see `join_linears`). The
    CPU plugin also computes a Broadcast in half precision, where a timestep of 999 is 1000.
    """
    count = 0
    for node in nodes_of(model, "Broadcast"):
        if _of_one(node) and _ends_in_additions(model, node):
            replace(node.output(0), node.input_value(0), rename=False)
            count += 1
    return count


def _of_one(broadcast: ov.Node) -> bool:
    return sizes(broadcast.input_value(0)) == (1,) and len(sizes(broadcast.output(0))) == 1


def _ends_in_additions(model: ov.Model, broadcast: ov.Node) -> bool:
    """Return True if every result of the timestep ends in an addition that broadcasts it.

    It is added to feature maps, or to an embedding of something else with a row for each image, as in Stable Diffusion
    XL.
    """
    constants: set[int] = set()
    embedding = {broadcast.get_instance_id()}
    for node in model.get_ordered_ops():
        sources = {value.get_node().get_instance_id() for value in node.input_values()}
        if node.get_type_name() == "Constant" or (sources and sources <= constants):
            constants.add(node.get_instance_id())
        elif sources.isdisjoint(embedding):
            continue
        elif sources <= embedding | constants and _works_on_rows(node):
            embedding.add(node.get_instance_id())
        elif node.get_type_name() != "Add" or not _broadcasts(node, embedding):
            return False
    return True


def _broadcasts(addition: ov.Node, embedding: set[int]) -> bool:
    """Return True if the other operand of an addition has the rows of the batch."""
    rank = len(sizes(addition.output(0)))
    others = [value for value in addition.input_values() if value.get_node().get_instance_id() not in embedding]
    return rank == 4 or (rank == 2 and all(len(sizes(other)) == rank and sizes(other)[0] != 1 for other in others))


def _works_on_rows(node: ov.Node) -> bool:
    """Return True if a node does the same to every row of the batch."""
    kind = node.get_type_name()
    if kind in _ELEMENTWISE:
        return True
    if kind == "Concat":
        return node.get_attributes()["axis"] not in (0, -len(sizes(node.output(0))))
    if kind not in _AXIS:
        return False
    axes, rank = constant(node.input_value(_AXIS[kind])), len(sizes(node.output(0)))
    return axes is not None and all(int(axis) % rank for axis in axes.reshape(-1))

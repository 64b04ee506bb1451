"""Helpers to inspect and edit an `openvino.Model`, shared by the rewrites."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from diffoundry.targets.openvino.import_openvino import ov

__all__ = ["constant", "consumers", "new_constant", "nodes_of", "replace", "sizes", "sole_user", "source", "transposed"]

_SMALL = 16
"""Elements. Scalars and shapes of a model whose floats are stored as halves, but none of its weights."""


_TILE = 64
"""Rows and columns that are transposed at once: both their sources and their places stay in the cache."""


def nodes_of(model: ov.Model, *op_types: str) -> Iterator[ov.Node]:
    """The nodes of these types in order, each let go before the next, so that what replaces it may free its weights."""
    waiting = [node for node in reversed(model.get_ordered_ops()) if node.get_type_name() in op_types]
    while waiting:
        yield waiting.pop()


def source(node: ov.Node, index: int, *op_types: str) -> ov.Node | None:
    """The node behind input `index` of `node` when it is one of `op_types`, or None."""
    found: ov.Node = node.input_value(index).get_node()
    return found if found.get_type_name() in op_types else None


def constant(output: ov.Output | None) -> npt.NDArray[np.generic] | None:
    """The array behind a constant, not copied, or None. Of small ones a Convert after them is done, too."""
    node = None if output is None else output.get_node()
    if node is not None and node.get_type_name() == "Convert":
        array = constant(node.input_value(0))
        wanted = node.get_element_type().to_dtype()
        return array.astype(wanted) if array is not None and array.size <= _SMALL else None
    if node is None or node.get_type_name() != "Constant":
        return None
    data: npt.NDArray[np.generic] = node.data
    return data


def consumers(output: ov.Output) -> list[ov.Node]:
    """The nodes that read an output, one entry for each of their inputs that does."""
    return [target.get_node() for target in output.get_target_inputs()]


def sole_user(output: ov.Output, *op_types: str) -> ov.Node | None:
    """The only node that reads an output when it is one of `op_types`, or None."""
    users = consumers(output)
    return users[0] if len(users) == 1 and users[0].get_type_name() in op_types else None


def sizes(output: ov.Output) -> tuple[int | None, ...]:
    """The shape of an output: None where a size is not fixed. Its rank must be known."""
    shape = output.get_partial_shape()
    return tuple(size.get_length() if size.is_static else None for size in shape)


def new_constant(array: npt.NDArray[np.generic], name: str) -> ov.Output:
    """A constant of the model's own memory."""
    node = ov.opset13.constant(np.asarray(array, order="C"))
    node.set_friendly_name(name)
    output: ov.Output = node.output(0)
    return output


def transposed(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A transposed copy of a matrix, tile by tile: for large ones seven times as fast as NumPy's own."""
    made = np.empty(array.shape[::-1], array.dtype)
    for row in range(0, array.shape[0], _TILE):
        for column in range(0, array.shape[1], _TILE):
            tile = array[row : row + _TILE, column : column + _TILE]
            made[column : column + _TILE, row : row + _TILE] = tile.T
    return made


def replace(old: ov.Output, new: ov.Output, *, rename: bool = True) -> None:
    """Let `new` take the place of `old`, and the friendly name of its node unless `rename` is False."""
    if rename:
        new.get_node().set_friendly_name(old.get_node().get_friendly_name())
    for target in old.get_target_inputs():
        target.replace_source_output(new)

"""Keeps integer weights of convolutions in the mapped file of a model: each call reads and decompresses them."""

from collections.abc import Iterator
from math import prod

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import consumers, nodes_of, replace, sizes

__all__ = ["NOTE", "feed_weights"]

NOTE = "convolutions with integer weights in memory"
"""Fact of an engine: their number."""

_SMALLEST = 1 << 20
"""Weights. Below, a convolution keeps its floats: they take little memory."""

_INTEGERS = ("i8", "u8", "i4", "u4")

_DECOMPRESSION = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose")


def feed_weights(model: ov.Model) -> dict[str, ov.Node]:
    """Make integer weights of large convolutions inputs of the model, and return the constants to feed.

    The plugin keeps integer weights of products as they are. It decompresses those of convolutions when it compiles,
    and holds the floats twice: as they are, and in its kernels' layout. Here one layer has floats at a time. The
    numbers are the same, bit for bit; with zero points within rounding, as the plugin multiplies before it subtracts.

    Given:
        y = Convolution(x, Multiply(Convert(W), s))    # W: (K, C, 3, 3), a constant of int8
    Result:
        y = Convolution(x, Multiply(Convert(P), s))    # P: an input, fed with W where it is: in the mapped file

    Args:
        model: Changed in place.

    Returns:
        Name of each new input to its constant, which holds the memory.
    """
    fed: dict[str, ov.Node] = {}
    parameters: list[ov.Node] = []
    for constant in list(_weights(model)):
        name = f"{constant.get_friendly_name()}/fed"
        parameter = ops.parameter(list(constant.get_output_shape(0)), constant.get_element_type())
        parameter.set_friendly_name(name)
        parameter.output(0).set_names({name})
        replace(constant.output(0), parameter.output(0), rename=False)
        parameters.append(parameter)
        fed[name] = constant
    if parameters:
        model.add_parameters(parameters)
        model.validate_nodes_and_infer_types()
    return fed


def _weights(model: ov.Model) -> Iterator[ov.Node]:
    """Yield the constants of integers that only large convolutions read, once each."""
    seen = set()
    for node in nodes_of(model, "Convolution"):
        weight = node.input_value(1)
        readers = consumers(weight)
        if prod(size or 0 for size in sizes(weight)) < _SMALLEST or any(not _unfolds(reader) for reader in readers):
            continue
        constant = _compressed(weight)
        if constant is not None and constant.get_friendly_name() not in seen:
            seen.add(constant.get_friendly_name())
            yield constant


def _compressed(value: ov.Output) -> ov.Node | None:
    """Return the constant of integers behind the arithmetic that decompresses it for one reader, or None."""
    node = value.get_node()
    while node.get_type_name() in _DECOMPRESSION:
        node = node.input_value(0).get_node()
        if len(consumers(node.output(0))) != 1:
            return None
    integers = node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in _INTEGERS
    return node if integers else None


def _unfolds(node: ov.Node) -> bool:
    """Return False for all but convolutions, and for a layer of tokens, which the plugin runs as a product itself."""
    if node.get_type_name() != "Convolution":
        return False
    if set(sizes(node.input_value(1))[2:]) != {1}:
        return True
    after = [reader for user in consumers(node.output(0)) for reader in (user, *consumers(user.output(0)))]
    before = node.input_value(0).get_node()
    return all(one.get_type_name() != "Transpose" for one in (before, *after))

"""Keeps the arithmetic of angles in float32, in engines that compute in half precision."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffoundry.targets.openvino.import_openvino import ops, ov
from diffoundry.targets.openvino.nodes import replace

__all__ = ["behind_angles", "mark_nodes", "reshape_angles", "save_marked"]

_ROWS_OF_ONE = np.array([-1, 1])
"""Target of a Reshape of one timestep for each row."""

_MARK = {"name": "precise", "version": "0"}
"""OpenVINO's `DisableFP16Compression`: plugins do not lower the precision of the node. Python cannot set it."""


def behind_angles(model: ov.Model) -> Iterator[ov.Node]:
    """Yield all sines and cosines of a model, and every node that they are computed from."""
    waiting = [node for node in model.get_ordered_ops() if node.get_type_name() in ("Sin", "Cos")]
    seen: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        yield node
        waiting += [value.get_node() for value in node.input_values()]


def save_marked(model: ov.Model, path: Path) -> None:
    """Write a model with its constants as halves, and mark its angles: all plugins compute them in float32.

    The timestep embedding multiplies a timestep by frequencies. As a bfloat16, 999 is 1000, and Stable Cascade's
    timesteps go up to 10000: the angle would be wrong by many turns.

    Args:
        model: Changed in place; see `reshape_angles`.
        path: The .xml file.
    """
    reshape_angles(model)
    names = frozenset(node.get_friendly_name() for node in behind_angles(model))
    ov.save_model(model, path, compress_to_fp16=True)
    if names:
        mark_nodes(path, names)


def reshape_angles(model: ov.Model) -> None:
    """Turn Unsqueezes behind angles into Reshapes, in place: plugins do so, and lose the mark."""
    for node in list(behind_angles(model)):
        if node.get_type_name() == "Unsqueeze" and len(node.get_output_partial_shape(0)) == _ROWS_OF_ONE.size:
            replace(node.output(0), ops.reshape(node.input_value(0), _ROWS_OF_ONE, special_zero=False).output(0))


def mark_nodes(path: Path, names: frozenset[str]) -> None:
    """Mark nodes of a written model, by their friendly names, so that plugins compute them in float32."""
    tree = ET.parse(path)  # noqa: S314  # OpenVINO has just written it
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names:
            facts = layer.find("rt_info")
            ET.SubElement(ET.SubElement(layer, "rt_info") if facts is None else facts, "attribute", _MARK)
    tree.write(path, encoding="utf-8", xml_declaration=True)

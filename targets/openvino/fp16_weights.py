"""Stores a model's floats as halves, except those outside the range of halves."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from diffoundry.targets.openvino.angles import behind_angles, save_marked
from diffoundry.targets.openvino.import_openvino import offline, ov
from diffoundry.targets.openvino.nodes import replace

__all__ = ["save_halves", "store_halves"]


def store_halves(model: ov.Model) -> None:
    """Store constants as halves with a Convert behind each, in place; what angles are made of stays as it is.

    OpenVINO's own compression takes the frequencies of the timestep embedding along: their rounding, 2^-11 of each,
    times a timestep of 999 is half a radian.
    """
    _keep_angles(model)
    offline.compress_model_transformation(model)
    model.validate_nodes_and_infer_types()


def save_halves(model: ov.Model, path: Path) -> None:
    """Write a model as `store_halves` would leave it, each constant narrowed as it is written: none is held twice.

    Angles are computed in float32 by all plugins.
    """
    _keep_angles(model)
    save_marked(model, path)


def _keep_angles(model: ov.Model) -> None:
    """Write each constant behind an angle as the sum of three in bfloat16, which compression does not touch.

    Three times 8 bits are the 24 of a float32, so the sum is the number itself, and the compiler computes it once.
    """
    for node in _constants(behind_angles(model)):
        rest, name, terms = node.data.copy(), node.get_friendly_name(), []
        for number in range(3):
            upper = (rest.view(np.uint32) & 0xFFFF0000).view(np.float32)  # what a bfloat16 holds
            term = ov.opset13.constant(upper, ov.Type.bf16)
            term.set_friendly_name(f"{name}/{number}")
            terms.append(ov.opset13.convert(term, "f32"))
            rest = rest - upper
        assert not np.any(rest), "subnormal numbers are no frequencies"
        total = ov.opset13.add(ov.opset13.add(terms[0], terms[1]), terms[2])
        replace(node.output(0), total.output(0))
    model.validate_nodes_and_infer_types()


def _constants(nodes: Iterable[ov.Node]) -> list[ov.Node]:
    return [node for node in nodes if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.f32]

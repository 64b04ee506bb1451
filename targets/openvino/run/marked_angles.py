"""Keeps the arithmetic of angles in float32, in a model that is not written to a file."""

import tempfile
from pathlib import Path

from diffoundry.targets.openvino.angles import behind_angles, mark_nodes, reshape_angles
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.run.devices import core

__all__ = ["mark_angles"]


def mark_angles(model: ov.Model) -> None:
    """Replace the nodes that angles are computed from by marked ones, in place.

    Python cannot set the mark, so these few nodes go through a file; see `angles.save_marked`.
    """
    reshape_angles(model)
    nodes = list(behind_angles(model))
    angles = [node for node in nodes if node.get_type_name() in ("Sin", "Cos")]
    if not angles:
        return
    sources = [node for node in nodes if node.get_type_name() == "Parameter"]
    marked = _marked(ov.Model([node.output(0) for node in angles], sources))
    for source, parameter in zip(sources, marked.get_parameters(), strict=True):
        for reader in parameter.output(0).get_target_inputs():
            reader.replace_source_output(source.output(0))
    for angle, result in zip(angles, marked.get_results(), strict=True):
        for reader in angle.output(0).get_target_inputs():
            reader.replace_source_output(result.input_value(0))
    model.validate_nodes_and_infer_types()


def _marked(part: ov.Model) -> ov.Model:
    """Write and read a small model, all of whose nodes get the mark."""
    with tempfile.TemporaryDirectory(prefix="diffoundry-") as folder:
        path = Path(folder) / "angles.xml"
        ov.save_model(part, path, compress_to_fp16=False)
        mark_nodes(path, frozenset(node.get_friendly_name() for node in part.get_ordered_ops()))
        return core().read_model(model=path.read_bytes(), weights=path.with_suffix(".bin").read_bytes())

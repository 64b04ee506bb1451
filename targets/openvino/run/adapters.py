"""Reads the graph with inputs for adapters, and keeps the branches of loaded adapters only."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.errors import EngineError
from diffoundry.runtime.formats.onnx_locations import check_graph_files
from diffoundry.targets.openvino.fp16_weights import store_halves
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.nodes import consumers, replace
from diffoundry.targets.openvino.rewrites import rewrite
from diffoundry.targets.openvino.run.marked_angles import mark_angles

__all__ = ["fit_ranks", "read_adaptable"]

_FIRST, _SECOND, _ROWS = ".lora_A", ".lora_B", ".rows"
"""Ends of the names of inputs for adapters."""

_RANKS = 16
"""Ranks of convolutions are filled up to multiples of this: their shapes are fixed when a model is compiled."""


def fit_ranks(adapters: Mapping[str, Array], last: Mapping[str, Array]) -> tuple[dict[str, Array], bool]:
    """Return the feeds for new adapters, and True if the model compiled for the last ones takes them.

    The plugin wants to know the shapes of a convolution's weights: zeros fill a rank up, and change nothing. Weights of
    products may have any rank.

    Args:
        adapters: The new ones.
        last: Last feeds of the compiled model; layers that are no longer adapted get zeros.
    """
    fed = {name: np.zeros_like(array) for name, array in last.items()}
    for name, array in adapters.items():
        fed[name] = array if array.ndim < 4 else _filled(array, int(name.endswith(_SECOND)), fed.get(name))
    same = all(array.shape == last[name].shape for name, array in fed.items() if name in last and array.ndim == 4)
    return fed, same and fed.keys() == last.keys()


def _filled(array: Array, axis: int, last: Array | None) -> Array:
    """Zeros behind a factor along its rank: as many as the last one had, or up to the next multiple."""
    rank = array.shape[axis]
    wanted = max(-(-rank // _RANKS) * _RANKS, 0 if last is None else last.shape[axis])
    return np.pad(array, [(0, wanted - rank if i == axis else 0) for i in range(array.ndim)])


def read_adaptable(path: Path, adapters: Mapping[str, Array], *, halves: bool, files: Sequence[str] = ()) -> ov.Model:
    """Read the graph that `targets.adapter_graph.TakeAdapters` opened, and rewrite what is left as it was.

    Args:
        path: The graph.
        adapters: Adapters to feed; branches of other inputs are removed, so that they cost nothing and hinder no
            rewrite.
        halves: True if weights are stored as halves, as in the engine's own file.
        files: The manifest's files of the graph, the graph first; none without a manifest.

    Raises:
        BundleError: Its weights are in other files.
        ValueError: It is no ONNX graph.
        EngineError: The files are links.
        RuntimeError: OpenVINO's, when it cannot read the file.
    """
    if files:
        check_graph_files(path, files[0], files)
        _refuse_links(path, files)
    model = ov.convert_model(path)
    _cut(model, adapters)
    model.reshape({name: array.shape for name, array in adapters.items() if array.ndim == 4})
    rewrite(model, wide_heads=halves)
    if halves:
        store_halves(model)
        mark_angles(model)
    return model


def _refuse_links(path: Path, files: Sequence[str]) -> None:
    """Refuse the links of a hub's cache: OpenVINO takes no weights of an ONNX graph from another folder."""
    if any(path.with_name(PurePosixPath(file).name).is_symlink() for file in files):
        raise EngineError(
            f"engine {path}: OpenVINO reads the weights for adapters from plain files only, got links as in the hub's "
            f"cache; copy the bundle with 'cp -rL FOLDER my.bundle', or use the target onnxruntime"
        )


def _cut(model: ov.Model, kept: Mapping[str, Array]) -> None:
    """Remove the inputs that are not kept, and the branches that they feed."""
    idle = {
        name: parameter
        for parameter in model.get_parameters()
        if (name := parameter.get_friendly_name()).endswith((_FIRST, _SECOND, _ROWS)) and name not in kept
    }
    for name, parameter in idle.items():
        if not name.endswith(_FIRST):  # its branch goes with that of the second factor
            for branch in consumers(parameter.output(0)):  # several of a layer that runs several times
                (join,) = consumers(branch.output(0))
                # Select(is new, new, own) of a table; Add(y, branch) of a layer, either way round
                others = [value for value in join.input_values() if value != branch.output(0)]
                replace(join.output(0), others[-1], rename=False)
    for parameter in idle.values():
        model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()

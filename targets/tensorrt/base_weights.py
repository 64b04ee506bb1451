"""Reads the weights that a plan was built with, and adds adapters to them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bundle.json_codec import RecordError, from_json
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.errors import BundleError

__all__ = ["FORMAT_VERSION", "BaseWeight", "RefitFile", "adapted_weight", "read_base_weight", "read_refit_file"]

FORMAT_VERSION = 2
"""1 had neither layers nor places."""

_STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}
"""bfloat16, which NumPy has not, as the upper halves of float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseWeight:
    """One float weight of a plan.

    Attributes:
        parameter: Name in the state dict of the torch module.
        transform: "none", or "transpose": both axes are swapped in the plan.
        dtype: In the plan: "float32", "float16" or "bfloat16".
        layer: The linear layer or convolution that it is the weight of, or None.
        file: Name of the file beside the plan that holds it, or None in plans that are not refitted.
        offset: Of its first byte there.
        shape: In the plan.
    """

    parameter: str
    transform: str
    dtype: str
    layer: str | None = None
    file: str | None = None
    offset: int = 0
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitFile:
    """Content of `*.refit.json`."""

    format_version: int = FORMAT_VERSION
    weights: Mapping[str, BaseWeight]


def read_refit_file(path: Path) -> Mapping[str, BaseWeight]:
    """The weights of a plan that can be refitted, by their names in it.

    Raises:
        BundleError: The file is of another version, or names files outside its folder.
    """
    try:
        held = from_json(RefitFile, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecordError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); build the engine again with --refit") from error
    if held.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: got format {held.format_version}, expected {FORMAT_VERSION}; build the engine again with --refit"
        )
    for name, weight in held.weights.items():
        if weight.file is None or Path(weight.file).name != weight.file or weight.dtype not in _STORED:
            raise BundleError(f"{path}: weight {name!r} has no place beside it; build the engine again with --refit")
    return held.weights


def read_base_weight(folder: Path, weight: BaseWeight) -> npt.NDArray[Any]:
    """A weight as it was built into the plan; bfloat16 as uint16.

    Raises:
        BundleError: The file is shorter than that.
    """
    path, count = folder / str(weight.file), int(np.prod(weight.shape))
    array: npt.NDArray[Any] = np.fromfile(path, dtype=_STORED[weight.dtype], count=count, offset=weight.offset)
    if array.size != count:
        raise BundleError(f"{path}: ends before weight {weight.parameter!r}; the bundle is damaged, export it again")
    return array.reshape(weight.shape)


def adapted_weight(base: npt.NDArray[Any], weight: BaseWeight, adapters: Mapping[str, Array]) -> npt.NDArray[Any]:
    """W + B A, computed in float32 and rounded to the plan's type, half to even.

    Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3. diffusers: `fuse_lora`.

    Args:
        base: From `read_base_weight`.
        weight: Its description.
        adapters: As in `runtime.engines.protocol.AdapterWeights`, the two factors of `weight.layer` among them.
    """
    down, up = (adapters[f"{weight.layer}.{factor}"] for factor in ("lora_A", "lora_B"))
    if down.ndim == 2:
        change = down @ up  # (in, out)
        change = change if weight.transform == "transpose" else change.T
    else:
        change = np.tensordot(up.reshape(up.shape[:2]), down, 1)
    if weight.dtype != "bfloat16":
        return np.ascontiguousarray(base.astype(np.float32) + change, dtype=base.dtype)
    wide = (base.astype(np.uint32) << 16).view(np.float32) + change
    bits = np.ascontiguousarray(wide).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

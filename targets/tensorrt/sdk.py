"""The two SDKs of NVIDIA behind this target, and their differences."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from diffoundry.targets.tensorrt.gpu_types import RTX_TYPES, TENSORRT_TYPES

__all__ = ["RTX", "SDKS", "TENSORRT", "Sdk"]


_OLDEST = 75
"""The first compute capability that both libraries run on: Turing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sdk:
    """One of the two SDKs. Its Python module is loaded when it is needed; no other file imports it.

    Attributes:
        name: The name of its plugin.
        product: NVIDIA's name of the product.
        module: Its Python package, which is also the name of its distribution and of our extra but for the hyphen.
        types: Type to the first GPU that computes in it.
        builds_without_gpu: True if it compiles on a machine without an NVIDIA driver.
        compute_capabilities: GPUs that a build may be aimed at, 89 for 8.9; none when it is the GPU it is built on.
        other_capabilities: GPUs that it does not run on, from 75 on.
        timing_cache: True if it times kernels while it builds, and keeps the times.
        runtime_cache: True if it compiles kernels while it loads, and keeps the kernels.
        validates: True if it can see from the head of a plan that it will not run.
        needs_gpu: Options that it only honours where a GPU is.
        refused: Options that it does not have, and why.
    """

    name: str
    product: str
    module: str
    types: Mapping[str, int] = field(hash=False)
    builds_without_gpu: bool
    compute_capabilities: tuple[int, ...] = ()
    other_capabilities: frozenset[int] = frozenset()
    timing_cache: bool = False
    runtime_cache: bool = False
    validates: bool = False
    needs_gpu: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def installed(self) -> bool:
        """True if its Python package can be found; it is not loaded."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str | None:
        """The version of the installed package, or None."""
        try:
            return version(self.module)
        except PackageNotFoundError:
            return None

    def runs_on(self, capability: int) -> bool:
        """Return True if it runs on GPUs of this compute capability."""
        return capability >= _OLDEST and capability not in self.other_capabilities

    def load(self) -> Any:
        """Import its module.

        Raises:
            ImportError: It is not installed, or its libraries are not.
        """
        return importlib.import_module(self.module)


TENSORRT = Sdk(
    name="tensorrt",
    product="TensorRT",
    module="tensorrt",
    types=TENSORRT_TYPES,
    builds_without_gpu=False,
    timing_cache=True,
    refused={"compute_capabilities": "TensorRT builds for the GPU of the machine it runs on and for no other"},
)

RTX = Sdk(
    name="tensorrt-rtx",
    product="TensorRT for RTX",
    module="tensorrt_rtx",
    types=RTX_TYPES,
    builds_without_gpu=True,
    compute_capabilities=(75, 80, 86, 89, 120, 121),
    other_capabilities=frozenset({87, 88, 90, 100, 103, 110}),
    runtime_cache=True,
    validates=True,
    needs_gpu=frozenset({"refit", "strip_plan"}),
    refused={"version_compatible": "its packages come without the lean runtime that runs such an engine"},
)

SDKS: Mapping[str, Sdk] = {sdk.name: sdk for sdk in (TENSORRT, RTX)}

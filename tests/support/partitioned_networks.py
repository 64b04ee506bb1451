"""A component of a bundle, lowered whole and in parts, on the same inputs."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.exporter.steps.lower import write_engine
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec, Variant
from diffoundry.runtime.engines.open_file import open_file
from diffoundry.runtime.engines.partitioned import PartitionedEngine
from diffoundry.runtime.engines.protocol import Engine, EngineOptions

__all__ = ["PARTITIONED_ROLES", "lower_in_parts", "open_engine", "random_feeds"]

PARTITIONED_ROLES = ("denoiser", "prior", "controlnet")

_SIZES = {"batch": 2, "height": 64, "width": 64}


def lower_in_parts(
    bundle: Path,
    component: str,
    folder: Path,
    *,
    partition: bool = False,
    split: bool = False,
    target: str = "onnxruntime",
    precision: str = "fp32",
    dims: Any = None,
    quantization: Any = None,
    **options: Any,
) -> EngineSpec:
    """Lower a component of a bundle in a copy of its folder; the files of the result are relative to `folder`."""
    opened = Bundle(bundle)
    assert opened.manifest is not None
    for file in opened.manifest.files:
        if file.startswith(f"{component}/") and not (folder / file).exists():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / file, folder / file)
    return write_engine(
        component=component,
        role=opened.role(component),
        variant=Variant(target=target, precision=precision, options=options),
        first=not (partition or split),
        dims=opened.manifest.recipe.dims if dims is None else dims,
        buckets=(),
        quantization=quantization,
        partition=partition,
        split=split,
        folder=str(folder),
        phase=lambda _: contextlib.nullcontext(),
        progress=lambda _: None,
    )


@contextlib.contextmanager
def open_engine(folder: Path, spec: EngineSpec) -> Iterator[Engine]:
    """Open a lowered component on one thread, with the target's own engine for each part."""
    options = EngineOptions(device="cpu", threads=1)

    def open_one(part: EngineSpec, adapters: Any = None) -> Engine:
        return open_file(spec.target, folder / part.files[0], part, options, adapters)

    with PartitionedEngine(spec, "network", open_one, {}, folder) if spec.parts else open_one(spec) as engine:
        yield engine


def random_feeds(inputs: tuple[TensorSpec, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Make inputs: normal floats, masks that keep the first token, small whole numbers, a timestep."""
    generator = np.random.default_rng(seed)
    return {spec.name: _random(spec, generator) for spec in inputs}


def _random(spec: TensorSpec, generator: np.random.Generator) -> np.ndarray:
    shape = [size if isinstance(size, int) else _size(size) for size in spec.shape]
    if "mask" in spec.name and len(shape) == 2:
        mask = generator.integers(0, 2, shape)
        mask[:, 0] = 1
        return mask.astype(spec.dtype)
    if "timestep" in spec.name and spec.name != "timestep_cond":
        return generator.uniform(0.1, 0.9, shape).astype(spec.dtype)
    if spec.dtype.startswith("float"):
        return generator.standard_normal(shape).astype(spec.dtype)
    return generator.integers(0, 4, shape).astype(spec.dtype)


def _size(symbol: str) -> int:
    from diffoundry.runtime.bundle.dims import size_of

    found = size_of(symbol, _SIZES)
    return 7 if found is None else found

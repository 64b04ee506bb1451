"""Compares networks that were cut into parts with the whole ones, bit for bit."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from diffoundry.exporter.steps.lower import write_engine
from diffoundry.exporter.verify.checks.remade import copy_inputs
from diffoundry.exporter.verify.reference.component_cases import ComponentCase
from diffoundry.exporter.verify.report.report import Check, holds
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import EngineSpec, Variant
from diffoundry.runtime.engines.batches import run_in_batches
from diffoundry.runtime.engines.open_file import open_file
from diffoundry.runtime.engines.part_names import TIMESTEPS
from diffoundry.runtime.engines.protocol import Array, Engine, EngineOptions, run_checked
from diffoundry.runtime.engines.run_memory import RunMemory
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import DiffoundryError, InputError

__all__ = ["check_partition"]

_EXACT = ("onnxruntime", "fp32")
"""Target and precision whose parts compute the bits of the whole network."""


def check_partition(bundle: Bundle, cases: Sequence[ComponentCase], options: EngineOptions) -> Iterator[Check]:
    """Yield one check for each network in parts of ONNX Runtime in fp32; none where the bundle has no such network.

    All cases are one run: the prelude runs once for all their timesteps, and what the parts before the step have
    computed is used again where a case feeds the same.

    Args:
        bundle: The bundle.
        cases: Recorded inputs.
        options: Threads; the device is the CPU.
    """
    target, precision = _EXACT
    on_cpu = replace(options, device="cpu")
    for name in bundle.components:
        engine = next((one for one in bundle.engines(name) if (one.target, one.precision) == _EXACT), None)
        if engine is None or not engine.parts:
            continue
        mine = [case for case in cases if case.component == name]
        session = EngineSession(bundle, target=target, precision=precision, options=on_cpu)
        with tempfile.TemporaryDirectory(prefix="diffoundry-verify-") as folder:
            try:
                spec = _lower_whole(bundle, name, Path(folder))
                with open_file(target, Path(folder) / spec.files[0], spec, on_cpu, None) as whole:
                    fault = _difference(session, whole, name, mine)
            except DiffoundryError as error:
                fault = str(error)
            finally:
                session.close()
        yield holds("partition", f"{name}, {' '.join(_EXACT)}", "bits of the whole network", fault)


def _lower_whole(bundle: Bundle, component: str, folder: Path) -> EngineSpec:
    manifest = bundle.manifest
    assert manifest is not None
    spec = manifest.components[component]
    copy_inputs(bundle, manifest, spec, folder)
    target, precision = _EXACT
    variant = next(one for one in manifest.recipe.variants if (one.target, one.precision) == _EXACT)
    return write_engine(
        component=component,
        role=spec.role,
        variant=Variant(target=target, precision=precision, options=variant.options),
        first=True,
        dims=manifest.recipe.dims,
        buckets=manifest.recipe.buckets,
        quantization=None,
        partition=False,
        folder=str(folder),
        phase=lambda _: nullcontext(),
        progress=lambda _: None,
    )


def _difference(components: EngineSession, whole: Engine, name: str, cases: Sequence[ComponentCase]) -> str | None:
    """Describe the first output that differs, or return None."""
    memory = RunMemory()
    times = [case.feeds[name] for case in cases for name in TIMESTEPS if name in case.feeds]
    memory.schedule, memory.convert = np.concatenate(times) if times else None, np.asarray
    for case in cases:
        feeds: Mapping[str, Array] = case.feeds
        try:
            with memory.active():
                ours = components.run(name, feeds)
            limit = components.row_limit(name)
            expected = run_in_batches(whole, name, feeds, limit, partial(run_checked, whole, component=name))
        except InputError as error:
            return f"{case.label}: {error}"
        for output, array in expected.items():
            if not np.array_equal(array, ours[output]):
                distance = float(np.abs(array - ours[output]).max())
                return f"{output}, {case.label}: differs by up to {distance:.3g}"
    return None if cases else "no recorded inputs for it"

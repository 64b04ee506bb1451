"""Builds a plan on this machine, unless the user's cache has it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffoundry.runtime.cache_folder import cache_folder
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.base import Lowering
from diffoundry.targets.tensorrt.build.engine_files import EngineFiles
from diffoundry.targets.tensorrt.build.host import Host
from diffoundry.targets.tensorrt.build.job import BuildJob
from diffoundry.targets.tensorrt.build.plan_cache import PlanCache, plan_key
from diffoundry.targets.tensorrt.build.run_worker import run_worker
from diffoundry.targets.tensorrt.gpu_types import PRECISION_TYPES, describe, refusals

__all__ = ["build_plan"]


def build_plan(job: BuildJob, files: EngineFiles, data: Sequence[Path], place: Host, work: Lowering) -> dict[str, Any]:
    """Build the plan, or take it from the cache.

    Args:
        job: Job to build.
        files: Paths of the graph and the plan.
        data: The graph's external data.
        place: This machine, which has what the job needs.
        work: For words and messages.

    Returns:
        Facts for the manifest: of the engine's structure, its memory and its build, and how far it was proved.

    Raises:
        EngineError: The GPU cannot compute in the precision, or the build failed.
    """
    gpu = None if job.compute_capabilities else place.gpu
    reasons = refusals(PRECISION_TYPES[work.precision], [gpu.capability], place.sdk.types) if gpu else []
    if gpu and reasons:
        raise EngineError(
            f"{work.component} in {work.precision}: got the GPU {gpu.name}, expected one that computes in it: "
            f"{'; '.join(reasons)}; choose another --precision"
        )
    version, folder = str(place.version), cache_folder("tensorrt")
    card = f"{gpu.name} {describe(gpu.capability)}" if gpu else ""
    timing = str(folder / f"timing {version} {card}.cache") if place.sdk.timing_cache else None
    graph, plan = files.graph.absolute(), files.plan.absolute()  # the worker reads its job in a folder of its own
    here = replace(job, graph=str(graph), plan=str(plan), timing_cache=timing)

    def build() -> Mapping[str, Any]:
        result = run_worker(here, work.progress, f"{work.component} in {work.precision}")
        return {**result.metadata, **({"warnings": list(result.warnings)} if result.warnings else {})}

    metadata, kept = PlanCache(folder).fetch(plan_key(here, data, version, card), files.plan, build)
    return {
        **metadata,
        "built_for": [describe(capability) for capability in job.compute_capabilities] or [card],
        "from_cache": kept,
        "proof": "compiled on its GPU" if gpu else "compiled without a GPU, never run",
    }

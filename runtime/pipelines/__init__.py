"""Pipelines: `load` opens the pipeline of a bundle."""

import os
from typing import cast

from diffoundry.runtime.bundle.bundle import Bundle, tell_unchecked
from diffoundry.runtime.bundle.hub import find_bundle
from diffoundry.runtime.checks.arguments import check_type
from diffoundry.runtime.engines.available_memory import parse_bytes
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.protocol import EngineOptions, merge_options
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.models.roles import SAFETY_CHECKER
from diffoundry.runtime.models.safety_checker import StableDiffusionSafetyChecker
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE, FamilyEntry, family_of_class, find_family_entry
from diffoundry.runtime.pipelines.staged import StagedPipeline

__all__ = ["entry_of_bundle", "load", "open_pipeline"]


def load(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    options: EngineOptions | None = None,
    low_memory: bool = False,
    memory: int | str | None = None,
    safety_checker: bool | None = True,
) -> DiffusionPipeline:
    """Open a bundle, or an Optimum ONNX folder, as a pipeline ready to generate.

    Systems with several stages, or with a loop of their own, are a `StagedPipeline`. It has the same `start`, call,
    `session` and `scheduler`, but no LoRAs and no ControlNets.

    Files and sizes are checked now; sums are checked and engines opened when first needed.

    Args:
        path: The folder, or the id of a bundle on the Hugging Face hub: "org/name", "org/name@revision". What the hub's
            cache has is used as it is; anything else is downloaded with `huggingface_hub`.
        target: Target whose engines to use, or None for the first that can run here.
        precision: Precision of the engines, or None for the first in the bundle.
        device: "cpu", "cuda", "gpu" ... as the target names it; None for the first that the target lists.
        threads: Threads of each engine, or None for the vendor's own choice.
        options: Further options of engines; `device` and `threads` are two of them.
        low_memory: Keep only one component loaded at a time (except those used in every step). Lowers peak memory;
            reloads components for every image.
        memory: Most memory that this process may take, in bytes or as "1.5GB". Components are opened and closed as with
            `low_memory`, and run in pieces where they would not fit. One that takes more is refused with what it took.
        safety_checker: As in `open_pipeline`.

    Raises:
        BundleError: The folder is no bundle, was changed, or is of a family this version does not know; or the hub has
            no bundle of this id.
        EngineError: The bundle has no engine for this target and precision, or its library is not installed.
        InputError: An argument of another type, or a device or threads that `options` has too; or `memory` is too
            little.
    """
    check_type("path", path, str | os.PathLike, "the folder of a bundle")
    for name, value in (("target", target), ("precision", precision)):
        check_type(name, value, str | None, "a name, or None for the first that runs here")
    check_type("options", options, EngineOptions | None, "EngineOptions")
    check_type("low_memory", low_memory, bool, "True or False")
    check_type("memory", memory, int | str | None, "bytes, or a size such as '1.5GB'")
    most = parse_bytes(memory, "memory") if isinstance(memory, str) else memory
    chosen = merge_options(options, device, threads)
    bundle = Bundle(find_bundle(path))
    tell_unchecked(bundle)
    session = EngineSession(
        bundle, target=target, precision=precision, options=chosen, low_memory=low_memory, memory=most
    )
    session.check_request()
    return cast("DiffusionPipeline", open_pipeline(session, safety_checker=safety_checker))


def open_pipeline(session: EngineSession, *, safety_checker: bool | None = True) -> PipelineBase:
    """Return the pipeline of a session's bundle, by its family.

    Args:
        session: The engines.
        safety_checker: True runs the safety checker of a bundle that has one; None or False turns it off, as
            `safety_checker=None` does in diffusers.

    Raises:
        BundleError: It is of a family this version does not know.
    """
    bundle, kind = session.bundle, resolve(entry_of_bundle(session.bundle).runtime)
    if issubclass(kind, StagedPipeline):
        staged: StagedPipeline = kind(session, safety_checker=bool(safety_checker))
        return staged
    checked = safety_checker and bundle.manifest is not None and bundle.with_role(SAFETY_CHECKER)
    checker = StableDiffusionSafetyChecker(session) if checked else None
    return DiffusionPipeline(session, kind(session), checker)


def entry_of_bundle(bundle: Bundle) -> FamilyEntry:
    """Return the family of a bundle.

    Raises:
        BundleError: It is of a family this version does not know.
    """
    if bundle.manifest is not None:
        name, entry = bundle.manifest.family, find_family_entry(bundle.manifest.family)
    else:
        name, entry = bundle.pipeline_class, family_of_class(bundle.pipeline_class)
    if entry is None:
        known = ", ".join(entry.name for entry in FAMILY_TABLE)
        raise BundleError(f"bundle {bundle.root}: got the family {name!r}, expected one of {known}; upgrade diffoundry")
    return entry

"""Pipelines: a family (how prompts condition) and a task (what is made of what). `load` opens a bundle's."""

import os

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.pipelines.classes import PIPELINE_CLASSES
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.runtime.pipelines.safety import COMPONENT, SafetyChecker

__all__ = ["FAMILIES", "load", "open_pipeline"]

FAMILIES = {
    "image_variation": "diffoundry.runtime.pipelines.families.image_variation:ImageVariation",
    "stable_diffusion": "diffoundry.runtime.pipelines.families.stable_diffusion:StableDiffusion",
    "stable_diffusion_xl": "diffoundry.runtime.pipelines.families.stable_diffusion_xl:StableDiffusionXL",
}


def load(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    precision: str | None = None,
    options: EngineOptions | None = None,
    low_memory: bool = False,
    safety_checker: bool | None = True,
) -> DiffusionPipeline:
    """Open a bundle, or an Optimum ONNX folder, as a pipeline ready to generate.

    Files and sizes are checked now; sums are checked and engines opened when first needed.

    Args:
        path: The folder.
        target: Which target's engines to use, or None for the first that can run here.
        precision: Which precision, or None for the first in the bundle.
        options: Device and threads.
        low_memory: Have no more open than what runs now: memory peaks at the largest component, and every image opens
            the components anew.
        safety_checker: As in `open_pipeline`.

    Raises:
        BundleError: The folder is no bundle, was changed, or is of a family this version does not know.
    """
    components = EngineSession(Bundle(path), target=target, precision=precision, options=options, low_memory=low_memory)
    return open_pipeline(components, safety_checker=safety_checker)


def open_pipeline(components: EngineSession, *, safety_checker: bool | None = True) -> DiffusionPipeline:
    """The pipeline that drives these components, by the family of their bundle.

    Args:
        components: The engines.
        safety_checker: Whether images are shown to the safety checker of a bundle that has one; None or False turns
            it off, as `safety_checker=None` does in diffusers.

    Raises:
        BundleError: It is of a family this version does not know.
    """
    bundle = components.bundle
    if bundle.manifest is not None:
        family = bundle.manifest.family
    else:
        name = bundle.pipeline_class
        family = PIPELINE_CLASSES[name].family if name in PIPELINE_CLASSES else name
    if family not in FAMILIES:
        raise BundleError(
            f"bundle {bundle.root}: got the family {family!r}, expected one of {', '.join(FAMILIES)}; "
            "upgrade diffoundry"
        )
    checked = safety_checker and bundle.manifest is not None and COMPONENT in bundle.components
    checker = SafetyChecker(components) if checked else None
    return DiffusionPipeline(components, resolve(FAMILIES[family])(components), checker)

"""Pipelines: a family (how prompts condition) and a task (what is made of what). `load` opens a bundle's."""

import os

from diffoundry.runtime.bundle import Bundle
from diffoundry.runtime.components import Components
from diffoundry.runtime.engine import EngineOptions
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.pipelines.classes import PIPELINE_CLASSES
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.runtime.plugins import resolve

__all__ = ["FAMILIES", "load", "open_pipeline"]

FAMILIES = {
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
) -> DiffusionPipeline:
    """Open a bundle, or an Optimum ONNX folder, as a pipeline ready to paint.

    Files and sizes are checked now; sums are checked and engines opened when first needed.

    Args:
        path: The folder.
        target: Which target's engines to use, or None for the first that can run here.
        precision: Which precision, or None for the first in the bundle.
        options: Device and threads.
        low_memory: Have no more open than what runs now: memory peaks at the largest component, and every picture opens
            the components anew.

    Raises:
        BundleError: The folder is no bundle, was changed, or is of a family this version does not know.
    """
    bundle = Bundle(path)
    return open_pipeline(Components(bundle, target=target, precision=precision, options=options, low_memory=low_memory))


def open_pipeline(components: Components) -> DiffusionPipeline:
    """The pipeline that drives these components, by the family of their bundle.

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
    return DiffusionPipeline(components, resolve(FAMILIES[family])(components))

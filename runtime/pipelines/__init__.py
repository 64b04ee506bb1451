"""One file a family: how its components are driven. `load` picks the pipeline that a bundle needs."""

import os

from diffoundry.runtime.bundle import Bundle
from diffoundry.runtime.components import Components
from diffoundry.runtime.engine import EngineOptions
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.pipelines.stable_diffusion import StableDiffusionPipeline
from diffoundry.runtime.plugins import resolve

__all__ = ["FAMILIES", "load", "open_pipeline"]

FAMILIES = {
    "stable_diffusion": "diffoundry.runtime.pipelines.stable_diffusion:StableDiffusionPipeline",
}

_FAMILY_OF_CLASS = {"StableDiffusionPipeline": "stable_diffusion"}
"""For folders without a manifest: the class in model_index.json, without Optimum's and diffusers' ONNX prefixes."""


def load(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    precision: str | None = None,
    options: EngineOptions | None = None,
) -> StableDiffusionPipeline:
    """Open a bundle, or an Optimum ONNX folder, as a pipeline ready to paint.

    Files and sizes are checked now; sums are checked and engines opened when first needed.

    Args:
        path: The folder.
        target: Which target's engines to use, or None for the first that can run here.
        precision: Which precision, or None for the first in the bundle.
        options: Device and threads.

    Raises:
        BundleError: The folder is no bundle, was changed, or is of a family this version does not know.
    """
    return open_pipeline(Components(Bundle(path), target=target, precision=precision, options=options))


def open_pipeline(components: Components) -> StableDiffusionPipeline:
    """The pipeline that drives these components, by the family of their bundle.

    Raises:
        BundleError: It is of a family this version does not know.
    """
    bundle = components.bundle
    if bundle.manifest is not None:
        family = bundle.manifest.family
    else:
        name = str(bundle.model_index.get("_class_name", "")).removeprefix("ORT").removeprefix("Onnx")
        family = _FAMILY_OF_CLASS.get(name, name)
    if family not in FAMILIES:
        raise BundleError(
            f"bundle {bundle.root}: got the family {family!r}, expected one of {', '.join(FAMILIES)}; "
            "upgrade diffoundry"
        )
    pipeline: StableDiffusionPipeline = resolve(FAMILIES[family])(components)
    return pipeline

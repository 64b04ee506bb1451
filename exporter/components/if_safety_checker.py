"""DeepFloyd IF's safety checker: CLIP-preprocessed images to two scores, for unsafe content and for watermarks."""

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_object
from diffoundry.exporter.components.clip_vision import pixels_input
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import SAFETY_CHECKER as CHECKER_ROLE

__all__ = ["IF_SAFETY_CHECKER"]

_CLASS = "IFSafetyChecker"
_SOURCE = "safety_checker"


def _describe(configs: Configs) -> Component:
    return Component(
        name=_SOURCE,
        role=CHECKER_ROLE,
        network=_CLASS,
        source=_SOURCE,
        wrapper="diffoundry.exporter.components.if_safety_checker_module:IFSafetyCheckerModule",
        inputs=(pixels_input("clip_input", read_object(configs, _SOURCE, "vision_config"), _SOURCE),),
        # The runtime turns scores into a verdict: see runtime/models/if_safety_checker.py.
        outputs=tuple(
            TensorSpec(name=name, dtype="float32", shape=("batch", 1)) for name in ("nsfw_scores", "watermark_scores")
        ),
        example={"batch": 2},
    )


IF_SAFETY_CHECKER = ComponentKind(
    name=_SOURCE,
    source=_SOURCE,
    classes=(f"deepfloyd_if:{_CLASS}",),
    describe=_describe,
    optional=True,
    folder="feature_extractor",
)

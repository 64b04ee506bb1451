"""Stable Diffusion's safety checker: CLIP-preprocessed images to scores against the thresholds of its concepts."""

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_object
from diffoundry.exporter.components.clip_vision import pixels_input
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import SAFETY_CHECKER as CHECKER_ROLE

__all__ = ["SAFETY_CHECKER"]

_SOURCE = "safety_checker"

_SPECIAL, _CONCEPTS = 3, 17
"""Numbers of special and other concepts; diffusers: `StableDiffusionSafetyChecker.__init__`."""


def _describe(configs: Configs) -> Component:
    return Component(
        name=_SOURCE,
        role=CHECKER_ROLE,
        network="StableDiffusionSafetyChecker",
        source=_SOURCE,
        wrapper="diffoundry.exporter.components.safety_checker_module:SafetyCheckerModule",
        inputs=(pixels_input("clip_input", read_object(configs, _SOURCE, "vision_config"), _SOURCE),),
        # The runtime turns scores into a verdict, rounding included: see runtime/pipelines/safety.py.
        outputs=(
            TensorSpec(name="special_scores", dtype="float32", shape=("batch", _SPECIAL)),
            TensorSpec(name="concept_scores", dtype="float32", shape=("batch", _CONCEPTS)),
        ),
        example={"batch": 2},
    )


SAFETY_CHECKER = ComponentKind(
    name=_SOURCE,
    source=_SOURCE,
    classes=("stable_diffusion:StableDiffusionSafetyChecker",),
    describe=_describe,
    optional=True,
    folder="feature_extractor",
)

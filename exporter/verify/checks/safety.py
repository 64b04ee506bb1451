"""Compares the safety checker on generated images: its scores, and the images that it flags."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffoundry.exporter.components.if_safety_checker_module import IFSafetyCheckerModule
from diffoundry.exporter.components.safety_checker_module import SafetyCheckerModule
from diffoundry.exporter.verify.reference.component_cases import ComponentCase
from diffoundry.exporter.verify.reference.pipeline_trace import to_numpy
from diffoundry.exporter.verify.report.report import Check, holds
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.images.postprocess import to_pil
from diffoundry.runtime.models.if_safety_checker import IFSafetyChecker
from diffoundry.runtime.models.roles import SAFETY_CHECKER
from diffoundry.runtime.models.safety_checker import StableDiffusionSafetyChecker
from diffoundry.runtime.pipelines.example_inputs import make_example_inputs

__all__ = ["SafetyReference", "ask_safety_checker", "check_safety"]

FloatArray = NDArray[np.float32]

_DRAWN = 6
"""Example images beside the generated ones. A score is one number, in which large terms of both signs may cancel: the
relative error of one or two says little of a network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """One class of safety checkers.

    Attributes:
        module: Computes the scores with torch.
        scores: Names of the scores.
        judge: (engines, PIL images) -> for each image whether it is blacked out.
    """

    module: Callable[[Any, Any], Callable[[torch.Tensor], Sequence[torch.Tensor]]]
    scores: tuple[str, ...]
    judge: Callable[[EngineSession, Sequence[Any]], list[bool]]


_PLAIN = "StableDiffusionSafetyChecker"

_KINDS = {
    _PLAIN: _Kind(
        module=SafetyCheckerModule,
        scores=("special_scores", "concept_scores"),
        judge=lambda engines, images: StableDiffusionSafetyChecker(engines)(images),
    ),
    "IFSafetyChecker": _Kind(
        module=IFSafetyCheckerModule,
        scores=("nsfw_scores", "watermark_scores"),
        judge=lambda engines, images: IFSafetyChecker(engines)(images).flags,
    ),
}
"""Class of the network to its kind."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SafetyReference:
    """Results of diffusers' safety checker.

    Attributes:
        images: float32 (height, width, 3) in 0..1.
        flags: For each image, True if diffusers' pipeline would black it out.
        cases: The checker's inputs, as transformers' feature extractor prepares them, and its outputs, for these images
            and some examples.
    """

    images: Sequence[FloatArray]
    flags: Sequence[bool]
    cases: Sequence[ComponentCase]


def ask_safety_checker(pipeline: Any, images: Sequence[FloatArray]) -> SafetyReference:
    """Run the checker of diffusers' pipeline on images, in fp32.

    Args:
        pipeline: Pipeline with safety checker and feature extractor.
        images: float32 (height, width, 3) in 0..1, of one size.
    """
    checker = pipeline.safety_checker
    kind = _KINDS[type(checker).__name__]
    height, width, _ = images[0].shape
    drawn = [make_example_inputs(["image"], height, width, seed=seed)["image"] for seed in range(_DRAWN)]
    shown = [*to_pil(np.stack(images)), *drawn]
    pixels = pipeline.feature_extractor(shown, return_tensors="pt").pixel_values
    with torch.inference_mode():
        scores = kind.module(checker, None)(pixels)  # its component says nothing
    _, *verdicts = pipeline.run_safety_checker(np.stack(images), "cpu", torch.float32)
    case = ComponentCase(
        component=SAFETY_CHECKER,
        label=f"{len(shown)} images",
        feeds={"clip_input": to_numpy(pixels)},
        expected=dict(zip(kind.scores, map(to_numpy, scores), strict=True)),
    )
    return SafetyReference(images=images, flags=[any(flags) for flags in zip(*verdicts, strict=True)], cases=[case])


def check_safety(components: EngineSession, reference: SafetyReference | None) -> Iterator[Check]:
    """Compare the flags of the images.

    Args:
        components: The bundle's engines.
        reference: diffusers' results; None where there is no checker.

    Raises:
        EngineError: The engine failed.
    """
    if reference is None or SAFETY_CHECKER not in components.bundle.components:
        return
    images = to_pil(np.stack(reference.images))
    kind = _KINDS[components.bundle.network(SAFETY_CHECKER) or _PLAIN]
    try:
        flags = kind.judge(components, images)
    except (ConfigError, InputError) as error:
        yield holds("safety", SAFETY_CHECKER, f"flags of {len(images)} images", str(error))
        return
    wrong = [number for number, pair in enumerate(zip(flags, reference.flags, strict=True), 1) if pair[0] != pair[1]]
    words = ", ".join(f"image {number}: {flags[number - 1]}, expected {not flags[number - 1]}" for number in wrong)
    yield holds("safety", SAFETY_CHECKER, f"flags of {len(images)} images", words or None)

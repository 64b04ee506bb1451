"""The safety checker on painted pictures: its scores, and which of them it flags."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffoundry.exporter.components.safety_checker_module import SafetyCheckerModule
from diffoundry.exporter.verify.cases import Case
from diffoundry.exporter.verify.reference_run import to_numpy
from diffoundry.exporter.verify.report import Check, holds
from diffoundry.runtime.components import Components
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.image import to_pil
from diffoundry.runtime.pipelines.safety import COMPONENT, SafetyChecker

__all__ = ["SafetyReference", "ask_safety_checker", "check_safety"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SafetyReference:
    """What diffusers' safety checker says.

    Attributes:
        pictures: float32 (height, width, 3) in 0..1.
        flags: For each of them, whether diffusers' pipeline would black it out.
        cases: The checker on what transformers' feature extractor makes of them.
    """

    pictures: Sequence[FloatArray]
    flags: Sequence[bool]
    cases: Sequence[Case]


def ask_safety_checker(pipeline: Any, pictures: Sequence[FloatArray]) -> SafetyReference:
    """Show pictures to the checker of diffusers' pipeline, in fp32.

    Args:
        pipeline: With safety checker and feature extractor.
        pictures: float32 (height, width, 3) in 0..1, of one size.
    """
    checker = pipeline.safety_checker
    pixels = pipeline.feature_extractor(to_pil(np.stack(pictures)), return_tensors="pt").pixel_values
    with torch.inference_mode():
        scores = SafetyCheckerModule(checker, None)(pixels)  # type: ignore[arg-type]  # its component says nothing
    _, flags = pipeline.run_safety_checker(np.stack(pictures), "cpu", torch.float32)
    names = "special_scores", "concept_scores"
    case = Case(
        component=COMPONENT,
        label=f"{len(pictures)} pictures",
        feeds={"clip_input": to_numpy(pixels)},
        expected=dict(zip(names, map(to_numpy, scores), strict=True)),
    )
    return SafetyReference(pictures=pictures, flags=[bool(flag) for flag in flags], cases=[case])


def check_safety(components: Components, reference: SafetyReference | None) -> Iterator[Check]:
    """Compare which of the pictures are flagged.

    Args:
        components: The bundle's engines.
        reference: diffusers' answer; None where there is no checker.

    Raises:
        EngineError: The engine failed.
    """
    if reference is None or COMPONENT not in components.bundle.components:
        return
    pictures = to_pil(np.stack(reference.pictures))
    try:
        flags = SafetyChecker(components)(pictures)
    except (ConfigError, InputError) as error:
        yield holds("safety", COMPONENT, f"flags of {len(pictures)} pictures", str(error))
        return
    wrong = [number for number, pair in enumerate(zip(flags, reference.flags, strict=True), 1) if pair[0] != pair[1]]
    words = ", ".join(f"picture {number}: {flags[number - 1]}, expected {not flags[number - 1]}" for number in wrong)
    yield holds("safety", COMPONENT, f"flags of {len(pictures)} pictures", words or None)

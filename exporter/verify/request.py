"""Request of a verification: images to generate and engines to check."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.runtime.engines.protocol import EngineOptions, OpenEngine
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.example_inputs import make_example_arrays, make_example_inputs

__all__ = ["FULL_SEEDS", "Settings", "VerifyRequest"]

FULL_SEEDS = (0, 1)
"""Seeds of the full check: with every built-in prompt 32 images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyRequest:
    """Images to generate, and engines of the bundle to use.

    Attributes:
        prompts: Every prompt is generated with every seed.
        seeds: Seeds of torch's CPU generator.
        steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance.
        target: Check only engines of this target; None for every one that can run here.
        precision: Check only engines of this precision; None for every one that can run here.
        options: Device and threads of the engines; PyTorch always runs on the CPU.
        openers: Target to a function that opens its engines instead of its plugin, whatever this machine supports.
    """

    prompts: tuple[str, ...] = PROMPTS[:2]
    seeds: tuple[int, ...] = (0,)
    steps: int = 20
    guidance_scale: float = 7.5
    target: str | None = None
    precision: str | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    openers: Mapping[str, OpenEngine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that something is left to compare; the pipeline checks the rest.

        Raises:
            InputError: No prompts, no seeds, or no steps.
        """
        for name in ("prompts", "seeds"):
            if not getattr(self, name):
                raise InputError(f"{name}: got none, expected at least one; leave it out for the default")
        if self.steps < 1:
            raise InputError(f"steps: got {self.steps}, expected at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The images that were generated on both sides.

    Attributes:
        prompts: Every prompt was generated with every seed.
        seeds: Seeds of torch's CPU generator.
        steps: Steps of the scheduler.
        guidance_scale: 1 or less ran without guidance.
        height: Pixels.
        width: Pixels.
        example_inputs: Extra arguments that get example values, such as "image": see `make_example_inputs`.
        example_scale: As in `make_example_inputs`.
        arguments: Numbers and names among the arguments of a pipeline's call, without prompt and seed.
        arrays: As in `PipelineBase.example_arrays`.
        sized: True if the call has height and width.
        watch: As in `call_pipeline`.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance_scale: float
    height: int
    width: int
    example_inputs: tuple[str, ...] = ()
    example_scale: int = 1
    arguments: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sized: bool = True
    watch: bool = False

    def image_arguments(self) -> dict[str, Any]:
        """Arguments of a pipeline's call, without prompt and seed, for diffusers' pipelines and ours."""
        examples = make_example_inputs(self.example_inputs, self.height, self.width, self.example_scale)
        sides = {"height": self.height, "width": self.width}
        taken = {name: value for name, value in examples.items() if name not in sides}
        return {**self.arguments, **make_example_arrays(self.arrays), **taken, **(sides if self.sized else {})}

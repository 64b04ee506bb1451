"""A pipeline that runs once on recording arrays: text to an image, with the number of steps and the size fixed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from diffoundry.exporter.single_graph.graph_array import GraphArray, Trace
from diffoundry.exporter.single_graph.image_rows import IMAGES
from diffoundry.exporter.single_graph.recording_session import RecordingSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.base import EncodeOptions
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Guidance, Unguided
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.runtime.pipelines.step_guidance import StepGuidance
from diffoundry.runtime.pipelines.tasks.base import TaskContext
from diffoundry.runtime.random import NumpyGenerator
from diffoundry.runtime.schedulers.plans.lowering import lower
from diffoundry.runtime.schedulers.plans.sampling_plan import PlanStep, SamplingPlan

__all__ = ["CallTrace", "StepTrace", "TracedPipeline"]

_TEXTS = ("a", "b"), ("a red apple on a wooden table", "blurry and dark, with noise")
"""Prompt and negative prompt, of which the graph must not depend."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepTrace:
    """One step of the loop.

    Attributes:
        trace: Its operations.
        samples: Inputs: the sample before this step, the one before that, ...
        outputs: Inputs: the model's output of the step before, the one before that, ...
        noises: Inputs: the last noise drawn, the one before, ...
        outer: Inputs of the loop that every step reads: the guidance scale where a step combines rows with it, then the
            conditioning.
        output: The model's output.
        sample: The next sample.
    """

    trace: Trace
    samples: tuple[GraphArray, ...]
    outputs: tuple[GraphArray, ...]
    noises: tuple[GraphArray, ...]
    outer: tuple[GraphArray, ...]
    output: GraphArray
    sample: GraphArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CallTrace:
    """The computations before and after the loop, and each of its steps.

    Attributes:
        before: Operations that make the first sample and the conditioning.
        inputs: Name to array of `before`: tokens, "noise", and "guidance_scale" where the denoiser has guidance.
        latents: The first sample, of `before`.
        outer: Those of `StepTrace.outer`, of `before`.
        steps: In order.
        after: Operations that make the image.
        last: The last sample, of `after`.
        image: uint8 (IMAGES, H, W, 3), of `after`.
        plan: The scheduler's run.
        size: Height and width in pixels.
    """

    before: Trace
    inputs: dict[str, GraphArray]
    latents: GraphArray
    outer: tuple[GraphArray, ...]
    steps: tuple[StepTrace, ...]
    after: Trace
    last: GraphArray
    image: GraphArray
    plan: SamplingPlan
    size: tuple[int, int]


class TracedPipeline(DiffusionPipeline):
    """Runs the parts of a call on recording arrays. Its session is a `RecordingSession`."""

    def trace(self, arguments: dict[str, Any]) -> list[CallTrace]:
        """Record one call for each of two pairs of texts; both must come out alike.

        Args:
            arguments: Of a call, without texts.

        Raises:
            InputError: The call has other guidance than by a negative prompt or in the network, or an argument does not
                fit.
            NotAffineError: The scheduler has no sampling plan.
            UnrecordedError: The pipeline computes something else between its networks.
        """
        return [self._trace(prompt, negative, arguments) for prompt, negative in _TEXTS]

    def _trace(self, prompt: str, negative: str, arguments: dict[str, Any]) -> CallTrace:
        session = cast("RecordingSession", self.session)
        texts: dict[str, Any] = {"prompt": [prompt] * IMAGES}
        if not self.denoiser.embeds_guidance:
            texts["negative_prompt"] = [negative] * IMAGES
        call = self._parse({**texts, **arguments})
        shape = self.denoiser.latent_shape(call.images, *call.size, self.vae)
        scheduler, steps = self._plan(call, shape)
        choose, task = self.family.choose_guidance, call.task
        chosen = (
            choose(call.common, call.prompts, self.denoiser) if choose else task.guidance(call.common, self.denoiser)
        )
        if not isinstance(chosen, ClassifierFreeGuidance | Unguided) or isinstance(chosen, StepGuidance):
            raise InputError(
                f"--single-graph: got a checkpoint of the family {self._family_name!r} whose guidance is "
                f"{type(chosen).__name__}, expected guidance by a negative prompt alone; export it without "
                f"--single-graph"
            )
        options = EncodeOptions(*call.size, 1, chosen.guided, task.from_image, task)
        session.begin(_trace_of_images(shape)[0], {})
        session.learning = True
        self.family.encode(call.prompts, options._replace(guided=False))
        session.learning = False

        before, noise = _trace_of_images(shape)
        inputs: dict[str, GraphArray] = {}
        session.begin(before, inputs)
        condition = self.family.encode(call.prompts, options)
        inputs["noise"] = noise
        if chosen.guided or self.denoiser.embeds_guidance:
            inputs["guidance_scale"] = before.array((1,), np.float32)
        if isinstance(chosen, Unguided) and self.denoiser.embeds_guidance:
            chosen = Unguided(embedding=self.denoiser.embed_guidance(cast("float", inputs["guidance_scale"])))
        conditioning: dict[str, Any] = dict(chosen.feeds(condition))
        start = task.begin(
            TaskContext(
                inputs=replace(call.common, latents=cast("FloatArray", noise)),
                scheduler=scheduler,
                steps=steps,
                begin_index=self.family.begin_index,
                noise_scale=float(scheduler.init_noise_sigma) if self.family.scales_latents else 1.0,
                vae=self.vae,
                generator=NumpyGenerator(0),
                shape=shape,
                size=call.size,
                copies=chosen.copies,
                extra_channels=0,
                family=self.family,
            )
        )
        plan = lower(scheduler, eta=call.common.eta)
        outer: tuple[GraphArray, ...] = ()
        if chosen.guided:  # generate runs no guidance up to 1
            outer = (cast("GraphArray", np.maximum(cast("FloatArray", inputs["guidance_scale"]), np.float32(1.0))),)
        variable = {name: one for name, one in conditioning.items() if isinstance(one, GraphArray)}
        fixed = {name: one for name, one in conditioning.items() if name not in variable}
        outer = (*outer, *variable.values())
        traces = tuple(
            self._step((index, start.timesteps[index]), step, plan, chosen, outer, list(variable), fixed, shape)
            for index, step in enumerate(plan.steps)
        )
        after, last = _trace_of_images(shape)
        session.begin(after, {})
        return CallTrace(
            before=before,
            inputs=inputs,
            latents=cast("GraphArray", start.latents),
            outer=outer,
            steps=traces,
            after=after,
            last=last,
            image=self._image(last),
            plan=plan,
            size=call.size,
        )

    @property
    def _family_name(self) -> str:
        manifest = self.session.bundle.manifest
        assert manifest is not None, "a bundle that was just written has a manifest"
        return manifest.family

    def _step(
        self,
        place: tuple[int, Any],
        step: PlanStep,
        plan: SamplingPlan,
        guidance: ClassifierFreeGuidance | Unguided,
        outer: Sequence[GraphArray],
        names: Sequence[str],
        fixed: dict[str, FloatArray],
        shape: tuple[int, ...],
    ) -> StepTrace:
        """Record one step; coefficients of arrays that it does not use are 0, so that all steps are alike."""
        trace = Trace()
        cast("RecordingSession", self.session).begin(trace, {})
        kept = [[getattr(one, kind) for one in plan.steps] for kind in ("samples", "outputs", "noises")]
        counts = [max(map(len, rows)) for rows in kept]
        samples = tuple(trace.array(shape, np.float32) for _ in range(counts[0]))
        trace.images = samples[0]
        own_shape = (shape[0], self.denoiser.out_channels, *shape[2:])
        outputs = tuple(trace.array(own_shape, np.float32) for _ in range(counts[1] - 1))
        noises = tuple(trace.array(shape, np.float32) for _ in range(counts[2]))
        inner = tuple(trace.array(one.shape, one.dtype) for one in outer)
        feeds = {**fixed, **dict(zip(names, inner[len(inner) - len(names) :], strict=True))}
        guided: Any = guidance
        if isinstance(guidance, ClassifierFreeGuidance):
            guided = replace(guidance, scale=cast("float", inner[0]))
        scaled = cast("FloatArray", samples[0] * np.float32(step.input_scale))
        index, timestep = place
        output = self._predict(cast("Guidance", guided), cast("Any", feeds), None, None, scaled, timestep, index)
        terms = [
            array * np.float32(coefficients[age] if age < len(coefficients) else 0.0)
            for coefficients, arrays in (
                (step.samples, samples),
                (step.outputs, (cast("GraphArray", output), *outputs)),
                (step.noises, noises),
            )
            for age, array in enumerate(arrays)
        ]
        following = terms[0]
        for term in terms[1:]:
            following = following + term
        return StepTrace(
            trace=trace,
            samples=samples,
            outputs=outputs,
            noises=noises,
            outer=inner,
            output=cast("GraphArray", output),
            sample=following,
        )

    def _image(self, latents: GraphArray) -> GraphArray:
        """Record decoding: uint8 (B, H, W, 3), as `diffoundry.runtime.images.postprocess.to_pil` rounds."""
        sample = self.vae.decode(self.vae.denormalize(cast("FloatArray", latents)))
        pixels = cast("GraphArray", postprocess(sample, "np"))
        rounded = cast("GraphArray", np.round(cast("FloatArray", pixels * 255)))
        return rounded.astype(np.uint8)


def _trace_of_images(shape: tuple[int, ...]) -> tuple[Trace, GraphArray]:
    """Return a trace and its first array, of which the graph reads the number of images."""
    trace = Trace()
    trace.images = trace.array(shape, np.float32)
    return trace, trace.images

"""Chains of pipelines: a prior and its decoder, or a base model and its refiner, as one pipeline."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from diffoundry.runtime.errors import InputError, UnknownArgumentError
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.chain_words import (
    PRIOR,
    dimension,
    from_start,
    named,
    with_prefix,
    words,
)
from diffoundry.runtime.pipelines.chained_run import LAST, ChainedRun, ChainParts
from diffoundry.runtime.pipelines.denoising import StopSignal
from diffoundry.runtime.pipelines.example_inputs import make_example_arrays
from diffoundry.runtime.random.seeds import make_generators

__all__ = ["ChainedPipeline", "chain"]

_FOR_ALL = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "num_images_per_prompt")
"""Arguments that every pipeline of a chain gets, if it takes them."""

_FOR_FIRST = ("latents", "denoising_end")
"""Arguments that the first pipeline gets if it takes them, although the last may take them too."""


def chain(*pipelines: PipelineBase) -> "ChainedPipeline":
    """Return one pipeline of several, each of which takes what the one before gives.

    `chain(load("prior.bundle"), load("decoder.bundle"))("a red apple", seed=0)` gives what diffusers' combined pipeline
    gives: both draw from the same generator, one after the other.

    Args:
        pipelines: A prior and a decoder, a base model and its refiner, or the stages of a cascade.

    Raises:
        InputError: Fewer than two, something else, or one that does not take what the one before gives, by name or by
            shape.
    """
    for pipeline in pipelines:
        if not isinstance(pipeline, PipelineBase):
            raise InputError(
                f"chain: got {type(pipeline).__name__}, expected pipelines; load each bundle first, such as "
                f"chain(load('prior.bundle'), load('decoder.bundle'))"
            )
    if len(pipelines) < 2:
        raise InputError(
            f"chain: got {len(pipelines)} pipelines, expected two or more: a prior or base model, and the next"
        )
    first, *rest = pipelines
    for following in rest:
        first = ChainedPipeline(first, following)
    assert isinstance(first, ChainedPipeline), "there are two"
    return first


class ChainedPipeline(PipelineBase):
    """Two pipelines. diffusers: `KandinskyV22CombinedPipeline`, or a base model with its refiner.

    Arguments belong to the last pipeline, but for prompts, which both get, and for those with the prefix "prior_",
    which a prior gets. A prior also gets those that it alone takes. Of a base model and a refiner both get every
    argument that they take. `denoising_end` is where the refiner goes on. Both stages of DeepFloyd IF start from an
    `image`, where there is one.

    Attributes:
        first: Its result is not shown.
        last: Gives the images.
    """

    def __init__(self, first: PipelineBase, last: PipelineBase) -> None:
        """Check that what passes between both fits.

        Raises:
            InputError: It does not.
        """
        super().__init__(last.session)
        self.first, self.last = first, last
        self.sessions = (*first.sessions, *last.sessions)
        first.precede(last)
        handed, taken = first.handed_shapes(), last.taken_shapes()
        if handed.keys() == last.prompt_shapes().keys():
            taken = last.prompt_shapes()
        if not handed:
            raise InputError(
                f"chain: {named(first)} gives nothing that another pipeline takes; expected a prior and its decoder, "
                f"or a base model and its refiner"
            )
        for name, shape in handed.items():
            if name not in taken:
                raise InputError(
                    f"chain: {named(first)} gives {name}, but {named(last)} takes none; expected a prior and its "
                    f"decoder, or a base model and its refiner"
                )
            if shape != taken[name]:
                raise InputError(
                    f"chain: {named(first)} gives {name} of shape {words(shape)}, but {named(last)} takes "
                    f"{words(taken[name])}; expected bundles of one model"
                )
        for name in (one for one in taken if one not in handed):
            raise InputError(
                f"chain: {named(last)} takes {name}, but {named(first)} gives none; expected bundles of one model"
            )
        self.denoiser = last.denoiser
        self.scales_latents = last.scales_latents
        self.text_encoders = first.text_encoders

    @property
    def argument_names(self) -> frozenset[str]:
        """Names of all arguments that a call may have."""
        own = self.first.argument_names
        prefixed = {f"{PRIOR}{name}" for name in own - _OF_THE_CALL} | own if not self.first.makes_images else own
        handed = self.first.handed_shapes().keys()
        names = {*prefixed, *self.last.argument_names, *(set(_FOR_ALL) & own)} - handed
        return frozenset(names | self.start_arguments().keys())

    def start_arguments(self) -> dict[str, str | None]:
        """See `PipelineBase`: those of the last pipeline, or of the first where it is a chain."""
        starts = dict.fromkeys(self.first.start_arguments(), None) if isinstance(self.first, ChainedPipeline) else {}
        return {**starts, **self.last.start_arguments()}

    @property
    def needs_prompt(self) -> bool:
        """See `PipelineBase`."""
        return self.first.needs_prompt

    @property
    def bundle_name(self) -> str:
        """Names of both bundles' folders."""
        return f"{self.first.bundle_name}+{self.last.bundle_name}"

    def open_engines(self, without: Collection[str] = ()) -> None:
        """See `PipelineBase`: those of both pipelines."""
        for pipeline in (self.first, self.last):
            pipeline.open_engines(without)

    def close(self) -> None:
        """Free the engines of both pipelines; see `PipelineBase`."""
        self._close_dispatcher()
        for pipeline in (self.first, self.last):
            pipeline.close()

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images."""
        return (self.first if self.first.makes_images else self.last).default_size

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent of the last pipeline."""
        return self.last.scale_factor

    @property
    def used_components(self) -> tuple[str, ...]:
        """The components of the last pipeline that a default call runs."""
        return self.last.used_components

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`: what the first pipeline gives needs no example."""
        return ()

    @property
    def has_one_scheduler(self) -> bool:
        """See `PipelineBase`: a base model and the stages of a cascade get the argument too, a prior does not."""
        if not self.first.makes_images:
            return True
        return self.first.has_one_scheduler and type(self.first.scheduler) is type(self.last.scheduler)

    @property
    def scheduler(self) -> Any:
        """The scheduler of the last pipeline."""
        return self.last.scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self.last.scheduler = scheduler

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The config of the last pipeline's scheduler."""
        return dict(self.last.scheduler_config)

    @scheduler_config.setter
    def scheduler_config(self, config: Mapping[str, Any]) -> None:
        self.last.scheduler_config = config

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`: what the last pipeline gives."""
        return self.last.handed_shapes()

    def handed_over(self, result: Any) -> dict[str, Any]:
        """See `PipelineBase`."""
        return self.last.handed_over(result)

    def check_call(self, arguments: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """See `PipelineBase`: the arguments of both, and the size of the last."""
        first, last = self._split(arguments)
        count, known, others = self._check(first, last, arguments)
        return count, {**known, **others}

    def _check(
        self, first: Mapping[str, Any], last: Mapping[str, Any], given: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Check the arguments of both pipelines: the number of images, and the arguments that have a value.

        Args:
            first: Those of the first pipeline.
            last: Those of the last pipeline.
            given: All, as the caller named them.

        Raises:
            InputError: One does not fit; the message names it as the caller did.
        """
        try:
            count, known = self.first.check_call(first)
        except InputError as error:
            error.args = (with_prefix(str(error), given),)
            raise
        sizes = {**known, "images": count}
        shapes = {
            name: tuple(dimension(one, sizes) for one in dims) for name, dims in self.first.handed_shapes().items()
        }
        try:
            count, others = self.last.check_call({**last, **make_example_arrays(shapes)})
        except InputError as error:
            error.args = (from_start(str(error), self.start_arguments(), given),)
            raise
        return count, known, others

    def __call__(self, prompt: Any = None, *, return_dict: bool = True, **arguments: Any) -> Any:
        """Generate; see the class for the arguments.

        Raises:
            InputError: An argument does not fit; the message names it.
            EngineError: An engine cannot be opened, or failed.
        """
        result = self.start(prompt, **arguments).finish()
        return result if return_dict else result.to_tuple()

    def start(self, prompt: Any = None, **arguments: Any) -> "ChainedRun":
        """Prepare a run over the steps of both pipelines; the arguments of both are checked now.

        Raises:
            InputError: As `__call__`.
        """
        first, last = self._split({"prompt": prompt, **arguments})
        count, known, others = self._check(first, last, {"prompt": prompt, **arguments})
        seed, generator = make_generators(arguments.get("seed"), arguments.get("generator"), count, has_latents=False)
        output_type = "latent" if self.first.makes_images else "np"
        run = self.first.start(**first, output_type=output_type, generator=generator)
        signal = StopSignal()
        with self._signals_lock:
            self._signals.add(signal)
        # The first image has the size of a call: the last pipeline makes its own of it.
        sizes = {name: run.arguments[name] for name in _SIZES} if self.first.makes_images else {}
        kept = {**known, **others, **sizes, "prompt": prompt, **arguments}
        shown = {*self.argument_names, *_SIZES} - self._different_defaults(run.arguments, others, arguments)
        parts = ChainParts(first=run, handed=self.first.handed_over, start=self.last.start, arguments=last)
        return ChainedRun(
            steps=parts.steps(generator, signal),
            total=run.total + int(others.get("num_inference_steps", 0)),
            count=count,
            latents=np.empty(0, np.float32),
            decode=parts.decode,
            finish_images=None,
            output_type=arguments.get("output_type") or "pil",
            seed=seed,
            truncated=run.truncated,
            scheduler=self.last.scheduler,
            arguments={name: value for name, value in kept.items() if value is not None and name in shown},
            signal=signal,
            last_stage=LAST,
            make_result=parts.result,
            preview_first=run.preview if self.first.makes_images else None,
        )

    def _different_defaults(
        self, first: Mapping[str, Any], last: Mapping[str, Any], given: Mapping[str, Any]
    ) -> set[str]:
        """Return the arguments of both pipelines whose defaults differ: one value would not repeat the run."""
        if not self.first.makes_images:
            return set()
        both = self.first.argument_names & self.last.argument_names - {*_SIZES, *_FOR_LAST, *_FOR_FIRST}
        return {
            name
            for name in both & last.keys()
            if given.get(name) is None and isinstance(last[name], int | float) and first.get(name) != last[name]
        }

    def _split(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort the arguments of a call to both pipelines.

        Raises:
            InputError: One that the first pipeline makes for the last.
            UnknownArgumentError: One that neither takes.
        """
        own, others = self.first.argument_names, self.last.argument_names
        first: dict[str, Any] = {}
        last: dict[str, Any] = {}
        starts = self.start_arguments() if arguments.get("image") is not None else {}
        for name, value in arguments.items():
            if value is None or name in ("seed", "generator"):
                continue
            if name in starts:
                first[name] = value
                if starts[name] is not None:
                    last.setdefault(str(starts[name]), value)
                continue
            if name in self.first.handed_shapes():
                raise InputError(
                    f"{name}: got one, but {named(self.first)} makes it for {named(self.last)}; leave it out, or run "
                    "each bundle alone"
                )
            if name not in self.argument_names:
                raise UnknownArgumentError(name, sorted(self.argument_names))
            stem = name.removeprefix(PRIOR)
            if not self.first.makes_images and stem != name and stem in own:
                first[stem] = value
                continue
            for_first = name in (*_FOR_ALL, *_FOR_FIRST) or name not in others
            for_first |= self.first.makes_images and name not in _FOR_LAST
            if for_first and name in own:
                first[name] = value
            if name in others and not (name in _FOR_FIRST and name in own):
                last[name] = value
        return first, self._for_last(first, last)

    def _for_last(self, first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the last pipeline, without those that the first decides."""
        if self.first.makes_images:
            start = {"denoising_start": first["denoising_end"]} if "denoising_end" in first else {}
            return {**{name: value for name, value in last.items() if name not in _SIZES}, **start}
        return {name: value for name, value in last.items() if name not in self.first.decides}

    def __repr__(self) -> str:
        return f"ChainedPipeline({self.first!r}, {self.last!r})"


_SIZES = ("height", "width")

_OF_THE_CALL = {"seed", "generator", "output_type"}
"""Arguments of the whole chain, which a prior cannot have of its own."""

_FOR_LAST = (
    "output_type", "callback_on_step_end", "callback_on_step_end_tensor_inputs", "denoising_start", "strength",
)  # fmt: skip
"""Arguments that only the last pipeline gets."""

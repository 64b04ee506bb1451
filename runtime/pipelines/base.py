"""The base of every pipeline: what commands ask of it, closing, interrupting, and names of diffusers."""

import os
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.protocols import Denoiser, FloatArray
from diffoundry.runtime.models.roles import PRIOR
from diffoundry.runtime.pipelines import habits
from diffoundry.runtime.pipelines.asynchronous import AsyncCalls
from diffoundry.runtime.pipelines.callback import current_signal
from diffoundry.runtime.pipelines.denoising import StopSignal
from diffoundry.runtime.pipelines.example_inputs import make_example_arrays, make_example_inputs
from diffoundry.runtime.presets import preset_arguments

if TYPE_CHECKING:
    from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["PipelineBase"]


class PipelineBase(AsyncCalls):
    """A pipeline as commands see it, whatever its system.

    Attributes:
        session: The engines.
        denoiser: The network that is called in every step, of the last stage where there are several.
        scales_latents: False for flow matching, whose schedulers scale neither noise nor latents.
    """

    session: EngineSession
    denoiser: Denoiser

    def __init__(self, session: EngineSession) -> None:
        """Store the engines; none is opened."""
        self.session = session
        self.sessions: tuple[EngineSession, ...] = (session,)  # of a chain those of all its pipelines
        self._signals: weakref.WeakSet[StopSignal] = weakref.WeakSet()
        self._signals_lock = threading.Lock()

    def preset(self, name: str) -> dict[str, Any]:
        """Return the arguments that `diffoundry tune` stored under a name: `pipe("a", **pipe.preset("fast"))`.

        Raises:
            InputError: The bundle has no such preset.
            BundleError: Its file of presets is damaged.
        """
        return preset_arguments(self.session.bundle, name)

    if TYPE_CHECKING:  # both kinds of pipelines have these
        start: Any
        text_encoders: Any
        scales_latents: Any
        scheduler: Any
        scheduler_config: Any

        @property
        def argument_names(self) -> frozenset[str]:
            """Names of all arguments that a call may have."""

        @property
        def default_size(self) -> tuple[int, int]:
            """Height and width in pixels that the checkpoint was trained for."""

        @property
        def used_components(self) -> tuple[str, ...]:
            """The components that a default call runs."""

        @property
        def example_inputs(self) -> tuple[str, ...]:
            """The names for `make_example_inputs` of a default call."""

    @property
    def stepped_component(self) -> str:
        """Name of the component that is called in every step, of the last stage where there are several."""
        return self.denoiser.component if self.makes_images else self.session.bundle.component(PRIOR)

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent of the last stage; 1 in pixel space."""
        return 1

    @property
    def needs_prompt(self) -> bool:
        """True if a call has a prompt."""
        return bool(self.text_encoders)

    @property
    def scheduler_folder(self) -> str:
        """Folder of the scheduler that `scheduler` names."""
        return "scheduler"

    @property
    def image_count_argument(self) -> str:
        """Name of the argument for the number of images: of each prompt, or in all where there is no prompt."""
        return "batch_size" if "batch_size" in self.argument_names else "num_images_per_prompt"

    @property
    def example_scale(self) -> int:
        """Pixels of the result to a pixel of an example image: 1 but for upscalers."""
        return 1

    @property
    def takes_size(self) -> bool:
        """True if a measurement passes height and width; by default not where an image to start from has the size."""
        names = self.example_inputs
        return "height" in self.argument_names and ("image" not in names or "mask_image" in names)

    def example_arrays(self, height: int, width: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Return the shapes of arguments for which a measurement passes random numbers: embeddings, for example."""
        return {}

    def pack(self, latents: FloatArray) -> FloatArray:
        """Return the latents of a step in the shape of diffusers' pipeline class; by default as they are."""
        return latents

    transparent: bool = False
    """True if its images have an alpha channel."""

    makes_images: bool = True
    """False for priors, whose result is what another pipeline takes."""

    decides: frozenset[str] = frozenset({"num_images_per_prompt", "negative_prompt"})
    """Arguments that a prior keeps from the next pipeline: as in diffusers, it makes an embedding for each image."""

    @property
    def bundle_name(self) -> str:
        """Name of the bundle's folder; of a chain those of both, joined by a plus."""
        return self.session.bundle.root.name

    def open_engines(self, without: Collection[str] = ()) -> None:
        """Open the engines of a default call, but for those of some components; see `EngineSession.open_all`."""
        self.session.open_all([name for name in self.used_components if name not in without])

    def measured_images(self, result: Any) -> FloatArray:
        """Return the result of a call as a measurement compares it: images, float32 (B, height, width, 3) in 0..1.

        Of a pipeline that makes embeddings they are drawn as one row of grey pixels.
        """
        return np.asarray(result.images, np.float32)

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Return the arguments of the next pipeline of a chain that the result of this one fills, and their shapes.

        Sizes are numbers, "images", "height", "width", or the latter divided: "height/8".
        """
        return {}

    def taken_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Return the arguments that the result of a pipeline before this one may fill, as `handed_shapes`."""
        return {}

    def prompt_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Return the embeddings that a pipeline before this one may make of its prompt, as `handed_shapes`."""
        shapes = getattr(getattr(self, "family", None), "prompt_shapes", dict)
        return dict(shapes())

    def precede(self, following: "PipelineBase") -> None:
        """Prepare for the pipeline after this one in a chain; by default there is nothing to do."""

    @property
    def scheduler_name(self) -> str:
        """Class of the scheduler, for reports."""
        return type(self.scheduler).__name__

    @property
    def has_one_scheduler(self) -> bool:
        """True if the argument `scheduler` with the class of `self.scheduler` changes nothing."""
        return True

    def start_arguments(self) -> dict[str, str | None]:
        """Return the arguments of a chain with this last pipeline that start it from an image, to those of this one.

        The pipelines before get them too. Those that are None here are for them alone.
        """
        return {}

    def handed_over(self, result: Any) -> dict[str, Any]:
        """Return the values of `handed_shapes` of a finished run."""
        raise NotImplementedError

    def result_arrays(self, result: Any) -> dict[str, FloatArray]:
        """Return the arrays that are saved of a result that is no image, with a row for each image."""
        return self.handed_over(result)

    def check_call(self, arguments: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Check the arguments of a call without running anything.

        Returns:
            The number of images, and the arguments that have a value, with the size.

        Raises:
            InputError: As `start`.
        """
        raise NotImplementedError

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """Return the numbers and names of a call for a measurement, under diffusers' names; none that it lacks.

        Without an `output_type` among them, a measurement passes "np".

        Args:
            steps: Steps of the scheduler, of each stage where there are several.
            guidance_scale: 1 or less runs without guidance.
        """
        arguments = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
        return {name: value for name, value in arguments.items() if name in self.argument_names}

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:  # noqa: ARG002
        """Return the arguments of a measurement that depend on its size in pixels, but for the size; by default none.

        Args:
            height: Pixels of the result.
            width: Pixels of the result.
        """
        return {}

    def varied_arguments(self, seeds: Sequence[int]) -> dict[str, Any]:  # noqa: ARG002
        """Return the arguments that differ between the images of a measurement, such as classes; by default none.

        Args:
            seeds: Of the images.
        """
        return {}

    def measure_arguments(
        self, steps: int, guidance_scale: float, height: int, width: int, seed: int | None = None
    ) -> dict[str, Any]:
        """Return the arguments of a call for a measurement, but for prompt and seed. Images and masks are examples.

        Args:
            steps: As in `setting_arguments`.
            guidance_scale: As in `setting_arguments`.
            height: Pixels of the result.
            width: Pixels of the result.
            seed: As in `make_example_inputs`.
        """
        examples = make_example_inputs(self.example_inputs, height, width, self.example_scale, seed)
        examples |= make_example_arrays(self.example_arrays(height, width), seed)
        sides = {"height": height, "width": width}
        taken = {name: value for name, value in examples.items() if name in self.argument_names and name not in sides}
        if self.takes_size:
            taken |= sides
        return {**self.setting_arguments(steps, guidance_scale), **self.size_arguments(height, width), **taken}

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **options: Any) -> "DiffusionPipeline":
        """Open a bundle; the same as `diffoundry.load`, under diffusers' name.

        Args:
            path: The bundle.
            options: Those of `load`, and `scheduler`, as the property of this name takes it.

        Raises:
            InputError: An option of diffusers that is chosen otherwise here; the message says how.
        """
        return habits.from_pretrained(path, options)

    def to(self, *targets: Any) -> Self:
        """Return the pipeline itself where its engines run on that device; engines cannot move.

        Raises:
            InputError: They run elsewhere, or the argument is a precision; the message says how to load it so.
        """
        for target in targets:
            habits.check_target(self.session, target)
        return self

    def close(self) -> None:
        """Free all engines. Engine calls under way end first; a later call raises `EngineError`."""
        self._close_dispatcher()
        self.session.shut_down()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _interrupt(self) -> bool:
        """As in diffusers: True ends the denoising after the step under way, and its latents are decoded.

        Set in a callback it concerns the run of this callback, otherwise all runs of this pipeline.
        """
        signal = current_signal()
        return signal is not None and signal.interrupted

    @_interrupt.setter
    def _interrupt(self, interrupted: bool) -> None:
        signal = current_signal()
        with self._signals_lock:
            for one in list(self._signals) if signal is None else [signal]:
                one.interrupted = bool(interrupted)

    if not TYPE_CHECKING:  # a type checker shall refuse unknown names

        def __getattr__(self, name: str) -> Any:
            return habits.find_attribute(self, name)

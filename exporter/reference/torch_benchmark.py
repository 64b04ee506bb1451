"""Times diffusers' pipeline on one image, generated repeatedly."""

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.reference.arguments import example_inputs, example_scale, reference_arguments
from diffoundry.exporter.reference.baseline import GenerateJob
from diffoundry.exporter.reference.calls import call_pipeline, seeded_generator
from diffoundry.exporter.reference.networks import network
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime.bench.candidate import Generation
from diffoundry.runtime.bench.machine import machine_facts, peak_rss
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.pipelines import open_pipeline
from diffoundry.runtime.pipelines.example_inputs import make_example_inputs

__all__ = ["TorchBenchmark"]

_BF16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")


class TorchBenchmark:
    """Diffusers' pipeline of a checkpoint with timers around its networks. For one thread."""

    def __init__(self, job: GenerateJob) -> None:
        """Build the pipeline.

        Raises:
            CheckpointError: The checkpoint cannot be loaded.
        """
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self._job = job
        self._dtype: torch.dtype = getattr(torch, job.dtype)
        self._calls: dict[str, list[float]] = {}
        self._steps: list[float] = []
        self._inside: list[float] = []
        self._mark = self._inside_before = 0.0
        self._checkpoint = Checkpoint.reopen(job.checkpoint)
        self.pipeline = reference_pipeline(self._checkpoint, self._dtype)
        self.pipeline.progress_bar = self._enter_loop
        self._watch_networks()

    def generate(self) -> Generation:
        """Generate from the start noise that our runtime draws too: in fp32, whatever the networks' dtype.

        With an initial image, diffusers draws the noise itself, in the networks' dtype.
        """
        request = self._job.request
        self._calls, self._steps, self._inside = {}, [], []
        start = time.perf_counter()
        with seeded_generator(self.pipeline, request.seed) as generator:
            output = call_pipeline(
                self.pipeline,
                request.prompt,
                self._end_step,
                watch=self._job.arguments is not None,
                generator=generator,
                **{"output_type": self._output_type, **self._arguments(generator)},
            )
        seconds = time.perf_counter() - start
        return Generation(
            image=self._measured(output),
            seconds=seconds,
            steps=tuple(self._steps),
            inside=tuple(self._inside),
            calls={name: tuple(values) for name, values in self._calls.items()},
        )

    @property
    def _output_type(self) -> str:
        """That of images, or of embeddings, which diffusers' priors cannot convert to NumPy from bf16."""
        return "np" if self._job.bundle is None else "pt"

    def _measured(self, output: Any) -> FloatArray:
        """Return the images of a result; of a system that makes none, as `PipelineBase.measured_images` draws it."""
        if self._job.bundle is None:
            images = np.asarray(output.images, dtype=np.float32)
            return images.reshape(-1, *images.shape[-3:])  # layers of one image are a list of their own
        arrays = {name: torch.as_tensor(value).float().numpy() for name, value in output.items()}
        drawer = open_pipeline(EngineSession(Bundle(self._job.bundle)), safety_checker=None)
        return drawer.measured_images(SimpleNamespace(**arrays))

    def _arguments(self, generator: torch.Generator) -> dict[str, Any]:
        """Arguments of the call, without prompt and seed."""
        if self._job.arguments is not None:
            return reference_arguments(self.pipeline, self._job.arguments)
        request, default = self._job.request, self._default_size()
        taken = inspect.signature(self.pipeline.__call__).parameters
        examples = make_example_inputs(
            example_inputs(self.pipeline),
            request.height or default[0],
            request.width or default[1],
            example_scale(self.pipeline),
        )
        return {
            **self._start_noise(generator, default),
            **{name: value for name, value in request.image_arguments().items() if name in taken},
            **reference_arguments(self.pipeline, examples),
        }

    def facts(self) -> dict[str, str]:
        """Target, libraries, precision, device and threads, with the keys of `BundleCandidate.facts`."""
        compiled = "torch.compile of denoiser and VAE decoder, the rest eager"
        return {
            "target": compiled if self._job.compiled else "eager",
            "library": f"torch {version('torch')}, diffusers {version('diffusers')}",
            "precision": _precision(self._job.dtype),
            "device": "cpu",
            "threads": str(torch.get_num_threads()),
        }

    def peak_rss(self) -> int | None:
        """Peak resident memory of this process."""
        return peak_rss()

    def _default_size(self) -> tuple[int, int]:
        (denoiser,) = self._checkpoint.with_role(DENOISER)
        factor = self.pipeline.vae_scale_factor
        size = network(self.pipeline, denoiser.source).config.get("sample_size")
        if size is None:
            width = denoiser.usual["width"]
            return denoiser.usual.get("height", width), width  # layers of an image have their rows in common
        height, width = (size, size) if isinstance(size, int) else size
        return height * factor, width * factor

    def _start_noise(self, generator: torch.Generator, default: tuple[int, int]) -> dict[str, Any]:
        if example_inputs(self.pipeline):
            return {}
        request, factor = self._job.request, self.pipeline.vae_scale_factor
        height, width = request.height or default[0], request.width or default[1]
        config = self.pipeline.vae.config
        channels = config.z_dim if "z_dim" in config else config.latent_channels
        if hasattr(
            self.pipeline, "_patchify_latents"
        ):  # FLUX.2, which takes tokens of 2 x 2 latents in rows and columns
            channels, factor = 4 * channels, 2 * factor
        shape = 1, channels, height // factor, width // factor
        latents = torch.randn(shape, generator=generator).to(self._dtype)
        pack = None if hasattr(self.pipeline, "_patchify_latents") else getattr(self.pipeline, "_pack_latents", None)
        return {"latents": latents if pack is None else pack(latents, *shape)}

    def _watch_networks(self) -> None:
        """Put a timer around every network, outside of compiled code."""
        for name, part in self.pipeline.components.items():
            if not isinstance(part, torch.nn.Module):
                continue
            method, called = ("decode", "vae_decoder") if name == "vae" else ("forward", name)
            function = getattr(part, method)
            if self._job.compiled and not name.startswith("text_encoder"):
                function = torch.compile(function)
            setattr(part, method, self._timed(called, function))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            output = function(*args, **kwargs)
            self._calls.setdefault(name, []).append(time.perf_counter() - start)
            return output

        return timed

    def _enter_loop(self, steps: Iterable[Any] = (), **_options: Any) -> "_LoopStart":
        """Replaces the pipeline's progress bar, which it opens, or iterates over, right before its first step."""
        return _LoopStart(steps, self._start_loop)

    def _start_loop(self) -> None:
        self._inside_before, self._mark = self._inside_so_far(), time.perf_counter()

    def _end_step(self, _index: int, _timestep: Any, _latents: torch.Tensor) -> None:
        self._steps.append(time.perf_counter() - self._mark)
        self._inside.append(self._inside_so_far() - self._inside_before)
        self._inside_before, self._mark = self._inside_so_far(), time.perf_counter()

    def _inside_so_far(self) -> float:
        return sum(map(sum, self._calls.values()))


class _LoopStart:
    """A progress bar that only tells when a loop begins."""

    def __init__(self, steps: Iterable[Any], begin: Callable[[], None]) -> None:
        self._steps, self._begin = steps, begin

    def __iter__(self) -> Iterator[Any]:
        self._begin()
        yield from self._steps

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def update(self, *_steps: int) -> None:
        """Show nothing."""


def _precision(dtype: str) -> str:
    """Name the dtype, and for bf16 whether the processor computes in it; otherwise it is emulated and slow."""
    if dtype == "float32":
        return "fp32"
    native = [feature for feature in machine_facts().features if feature in _BF16_FEATURES]
    return f"bf16, native: {', '.join(native)}" if native else "bf16, emulated: the processor has no bf16 instructions"

"""PyTorch as a baseline in benchmarks: diffusers' pipeline, each form in a process of its own.

This module does not import torch, so that our side of a benchmark stays as small as without a baseline.
"""

import importlib.util
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from diffoundry.exporter.checkpoints.checkpoint import open_recipe
from diffoundry.runtime.bench.candidate import Generation, Load
from diffoundry.runtime.bench.request import BenchRequest
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import DiffoundryError, EngineError, InputError, MissingExtraError
from diffoundry.runtime.pipelines import entry_of_bundle, open_pipeline
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.families.base import Family
from diffoundry.runtime.pipelines.staged import StagedPipeline

__all__ = ["GenerateJob", "TorchCandidate", "torch_candidates"]

_ALL = "torch"
_PACKAGES = ("torch", "diffusers", "transformers")
_BENCHMARK = "diffoundry.exporter.reference.torch_benchmark:TorchBenchmark"
_LONGEST = 400
"""Most characters of a failure's reason."""

_PATIENCE = 5.0
"""Seconds that a process has to end after it is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateJob:
    """Work of a baseline process.

    Attributes:
        name: Name of the candidate.
        checkpoint: Result of `Checkpoint.describe`.
        request: Prompts and settings to generate.
        dtype: "float32" or "bfloat16".
        compiled: True if denoiser and VAE decoder go through `torch.compile`.
        threads: Threads of torch's pool, or None for torch's own choice.
        arguments: Arguments of the call of a system, without prompt and seed; None for a pipeline of one family, whose
            call follows from the request.
        bundle: Bundle of a system that makes no image, whose pipeline draws the result; None for images.
    """

    name: str
    checkpoint: Mapping[str, Any]
    request: BenchRequest
    dtype: str
    compiled: bool
    threads: int | None
    arguments: Mapping[str, Any] | None = None
    bundle: str | None = None


_FORMS: dict[str, dict[str, Any]] = {
    "torch-fp32": {"name": "PyTorch fp32", "dtype": "float32", "compiled": False},
    "torch-bf16": {"name": "PyTorch bf16", "dtype": "bfloat16", "compiled": False},
    "torch-compile": {"name": "PyTorch compiled", "dtype": "float32", "compiled": True},
}


def torch_candidates(
    bundle: str | os.PathLike[str], request: BenchRequest, names: Sequence[str] = (_ALL,), *, threads: int | None = None
) -> list["TorchCandidate"]:
    """Make the PyTorch baselines of a bundle, on the checkpoint of its recipe.

    Args:
        bundle: The bundle.
        request: Prompts and settings to generate.
        names: "torch" for all, or any of "torch-fp32", "torch-bf16", "torch-compile".
        threads: Threads of torch's pool, or None for torch's own choice.

    Raises:
        MissingExtraError: torch, diffusers or transformers is not installed.
        InputError: An unknown name, or a folder without a manifest, whose checkpoint is unknown.
        CheckpointError: The checkpoint cannot be opened.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("measuring PyTorch", package, "export")
    for name in names:
        if name != _ALL and name not in _FORMS:
            raise InputError(f"--against: got {name!r}, expected {_ALL} or one of {', '.join(_FORMS)}")
    opened = Bundle(bundle)
    description, system = _describe_checkpoint(opened), _open_system(opened)
    job = partial(
        GenerateJob,
        checkpoint=description,
        request=request,
        threads=threads,
        arguments=None if system is None else _system_arguments(system, request),
        bundle=None if system is None or system.makes_images else str(opened.root.resolve()),
    )
    return [TorchCandidate(job(**form)) for name, form in _FORMS.items() if name in names or _ALL in names]


def _open_system(bundle: Bundle) -> PipelineBase | None:
    """Open the pipeline of a bundle that is a system, or has arguments that depend on the size; None for others."""
    kind = resolve(entry_of_bundle(bundle).runtime)
    if not issubclass(kind, StagedPipeline) and kind.size_arguments is Family.size_arguments:
        return None
    return open_pipeline(EngineSession(bundle), safety_checker=None)


def _system_arguments(pipeline: PipelineBase, request: BenchRequest) -> Mapping[str, Any]:
    """Return the arguments with which the bundle's candidate calls a system; see `GenerateJob.arguments`."""
    default = pipeline.default_size
    size = request.height or default[0], request.width or default[1]
    return pipeline.measure_arguments(request.steps, request.guidance_scale, *size)


def _describe_checkpoint(bundle: Bundle) -> Mapping[str, Any]:
    if bundle.manifest is None:
        raise InputError(
            f"bundle {bundle.root}: got a folder without a manifest, so its checkpoint is unknown and there is "
            f"nothing to run in PyTorch; make a bundle of the checkpoint with 'diffoundry export'"
        )
    return open_recipe(bundle.manifest.recipe).describe()


class TorchCandidate:
    """Runs one form of diffusers' pipeline in a process of its own; see `bench.Candidate`."""

    def __init__(self, job: GenerateJob) -> None:
        """Store the job. Nothing is started yet."""
        self.name = job.name
        self.reference = job.dtype == "float32" and not job.compiled
        self._job = job
        self._process: Any = None
        self._connection: Connection | None = None

    def load(self) -> Load:
        """Start the process; it imports torch and builds the pipeline.

        Raises:
            EngineError: It cannot start; the message gives the reason.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._job), daemon=True)
        self._process.start()
        theirs.close()
        load: Load = self._ask("load")
        return load

    def generate(self) -> Generation:
        """Generate.

        Raises:
            EngineError: PyTorch failed, or its process ended.
        """
        generation: Generation = self._ask("generate")
        return generation

    def facts(self) -> Mapping[str, str]:
        """Describe versions, precision, threads.

        Raises:
            EngineError: The process ended.
        """
        facts: Mapping[str, str] = self._ask("facts")
        return facts

    def peak_rss(self) -> int | None:
        """Peak resident memory of the process.

        Raises:
            EngineError: The process ended.
        """
        peak: int | None = self._ask("peak_rss")
        return peak

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        assert self._connection is not None
        self._connection.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, question: str) -> Any:
        assert self._connection is not None, "load comes first"
        try:
            self._connection.send(question)
            answer, failure = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(_PATIENCE)
            code = self._process.exitcode
            reason = "was killed, most likely for want of memory" if code == -9 else f"ended with code {code}"
            raise EngineError(f"its process {reason}; use a smaller image or a larger machine") from error
        if failure is not None:
            raise EngineError(failure)
        return answer


def _serve(connection: Connection, job: GenerateJob) -> None:
    """Answer questions with (answer, failure) until the other end closes. Runs in the process."""
    start = time.perf_counter()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the asking process decides
    _silence()
    benchmark: Any = None
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        answer, failure = None, None
        try:
            if question == "load":
                benchmark = resolve(_BENCHMARK)(job)
                seconds = time.perf_counter() - start
                answer = Load(total=seconds, open=seconds, components={})
            else:
                answer = getattr(benchmark, question)()
        except Exception as error:  # noqa: BLE001  # any error of torch and its compiler is the answer
            failure = _sentence(error)
        connection.send((answer, failure))


def _silence() -> None:
    """Discard the output of torch and its compilers: standard output belongs to --json, errors come as answers."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _sentence(error: Exception) -> str:
    """Format the kind of error and its first paragraph; the rest is PyTorch's advice on debugging."""
    text = " ".join(str(error).partition("\n\n")[0].split())
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return short if isinstance(error, DiffoundryError) else f"{type(error).__name__}: {short}"

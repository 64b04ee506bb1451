"""Is the bundle still the same model? Components, the loop after every step, and the pictures, against PyTorch."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

import diffoundry
from diffoundry.exporter.checkpoint import Checkpoint
from diffoundry.exporter.reference import reference_pipeline
from diffoundry.exporter.verify.cases import Case, decoder_cases, encoder_cases, text_cases, unet_cases
from diffoundry.exporter.verify.component_checks import compare_component
from diffoundry.exporter.verify.config_checks import check_configs, check_files, check_scheduler, check_tokenizer
from diffoundry.exporter.verify.gates import coarsest, gates_for
from diffoundry.exporter.verify.loop_checks import follow, judge_loop
from diffoundry.exporter.verify.reference_run import Trace, paint_reference, record_unet
from diffoundry.exporter.verify.report import SCHEMA_VERSION, Check, LoopResult, OutputResult, VerifyReport
from diffoundry.exporter.verify.request import Settings, VerifyRequest
from diffoundry.exporter.verify.source import find_checkpoint, identity_notes
from diffoundry.exporter.verify.watch import PicturePair, Watch
from diffoundry.runtime import load
from diffoundry.runtime.components import choose_engine
from diffoundry.runtime.pipelines.stable_diffusion import StableDiffusionPipeline
from diffoundry.runtime.specs import DimSpec

__all__ = ["verify"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reference:
    """All that PyTorch has to say, so that it can be freed before the engines are opened."""

    traces: Sequence[Trace]
    cases: Sequence[Case]
    checks: Sequence[Check]


def verify(
    bundle: str | os.PathLike[str],
    checkpoint: Checkpoint | None = None,
    request: VerifyRequest | None = None,
    watch: Watch | None = None,
) -> VerifyReport:
    """Compare a bundle with the checkpoint it was made from, in fp32 PyTorch on the CPU.

    PyTorch runs first and is freed before the engines are opened: memory peaks at the larger of the two.

    Args:
        bundle: The bundle, or an Optimum ONNX folder.
        checkpoint: What to compare with, or None for the one that the bundle's recipe names.
        request: How much to paint, and with which engines.
        watch: Told of progress, and shown the pictures.

    Raises:
        BundleError: The folder is no bundle, or a file of it was changed after the export.
        CheckpointError: The checkpoint cannot be read.
        InputError: A folder without a recipe and no checkpoint.
        EngineError: No engine of the bundle can run here.
    """
    started = time.perf_counter()
    request, watch = request or VerifyRequest(), watch or Watch()
    pipeline = load(bundle, target=request.target, precision=request.precision, options=request.options)
    opened = pipeline.components.bundle
    checkpoint = checkpoint or find_checkpoint(opened)
    watch.stage("reading the bundle", 0, 1)
    files = check_files(opened)
    settings = _settings(pipeline, request)
    reference = _ask_pytorch(checkpoint, pipeline, settings, watch)
    engines = _engines(pipeline, request)
    outputs, component_checks = _compare_components(pipeline, reference.cases, engines, watch)
    loops, loop_checks = _compare_loops(pipeline, reference.traces, engines, settings, watch)
    pipeline.components.close()
    checks = (files, *reference.checks, *component_checks, *loop_checks)
    return VerifyReport(
        schema_version=SCHEMA_VERSION,
        diffoundry=diffoundry.__version__,
        bundle=os.fspath(bundle),
        checkpoint=checkpoint.name,
        engines={name: " ".join(engine) for name, engine in engines.items()},
        settings=settings,
        notes=tuple(identity_notes(opened, checkpoint)),
        checks=checks,
        outputs=tuple(outputs),
        loops=tuple(loops),
        seconds=time.perf_counter() - started,
        passed=all(check.passed for check in checks),
    )


def _settings(pipeline: StableDiffusionPipeline, request: VerifyRequest) -> Settings:
    """The request with a size: the checkpoint's own, or the nearest one that the bundle's engines take."""
    manifest = pipeline.components.bundle.manifest
    dims = manifest.recipe.dims if manifest else {}
    height, width = (
        _nearest(own, dims.get(name, DimSpec()))
        for name, own in zip(("height", "width"), pipeline.default_size, strict=True)
    )
    return Settings(
        prompts=request.prompts,
        seeds=request.seeds,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        height=height,
        width=width,
    )


def _nearest(size: int, dim: DimSpec) -> int:
    if dim.refusal(size) is None:
        return size
    bounded = max(dim.min, size if dim.max is None else min(size, dim.max))
    return bounded - bounded % dim.multiple_of


def _ask_pytorch(
    checkpoint: Checkpoint, pipeline: StableDiffusionPipeline, settings: Settings, watch: Watch
) -> _Reference:
    """Everything that needs PyTorch: configs, token ids, painted pictures, components on the inputs these met."""
    watch.stage("PyTorch: loading", 0, 1)
    reference = reference_pipeline(checkpoint, torch.float32)
    bundle = pipeline.components.bundle
    checks = [
        check_scheduler(bundle, checkpoint.scheduler_config),
        *check_configs(bundle, checkpoint.components, reference),
        check_tokenizer(pipeline.tokenizer, reference.tokenizer, settings.prompts),
    ]
    traces: list[Trace] = []
    cases: list[Case] = []
    for prompt, seed in product(settings.prompts, settings.seeds):
        tell = partial(watch.stage, f"PyTorch: {prompt}, seed {seed}")
        with record_unet(reference) as calls:
            traces.append(paint_reference(reference, prompt, seed, settings, tell))
        cases = cases or unet_cases(calls)
    watch.stage("PyTorch: components", 0, 1)
    cases += text_cases(reference, settings.prompts)
    cases += decoder_cases(reference, traces[0])
    cases += encoder_cases(reference, traces[0])
    return _Reference(traces=traces, cases=cases, checks=checks)


def _engines(pipeline: StableDiffusionPipeline, request: VerifyRequest) -> dict[str, tuple[str, str]]:
    """Component to (target, precision) of the engine that is used."""
    bundle = pipeline.components.bundle
    engines = {}
    for name in bundle.components:
        if bundle.manifest is not None:
            spec = choose_engine(
                name, bundle.engines(name), request.target, request.precision, request.options.device
            ).spec
            engines[name] = spec.target, spec.precision
        else:
            engine = pipeline.components.engine(name)
            halves = any(tensor.dtype == "float16" for tensor in (*engine.inputs, *engine.outputs))
            engines[name] = "onnxruntime", "fp16" if halves else "fp32"
    return engines


def _compare_components(
    pipeline: StableDiffusionPipeline, cases: Sequence[Case], engines: Mapping[str, tuple[str, str]], watch: Watch
) -> tuple[list[OutputResult], list[Check]]:
    results: list[OutputResult] = []
    checks: list[Check] = []
    for index, (name, (_, precision)) in enumerate(engines.items()):
        watch.stage("components", index, len(engines))
        mine = [case for case in cases if case.component == name]
        found, judged = compare_component(pipeline.components, name, mine, gates_for(precision))
        results += found
        checks += judged
    return results, checks


def _compare_loops(
    pipeline: StableDiffusionPipeline,
    traces: Sequence[Trace],
    engines: Mapping[str, tuple[str, str]],
    settings: Settings,
    watch: Watch,
) -> tuple[list[LoopResult], list[Check]]:
    gates = gates_for(coarsest(precision for _, precision in engines.values()))
    results: list[LoopResult] = []
    checks: list[Check] = []
    for trace in traces:
        tell = partial(watch.stage, f"bundle: {trace.prompt}, seed {trace.seed}")
        result, picture = follow(pipeline, trace, settings, tell)
        watch.pictures(PicturePair(prompt=trace.prompt, seed=trace.seed, ours=picture, reference=trace.picture))
        results.append(result)
        checks += judge_loop(result, gates)
    return results, checks

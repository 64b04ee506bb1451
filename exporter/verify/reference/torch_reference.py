"""Runs everything that a verification needs of PyTorch, and frees it before the engines are opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from PIL.Image import Image

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.reference.networks import network, tokenizer_of
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.verify.checks.codes import check_codes
from diffoundry.exporter.verify.checks.configs import (
    check_configs,
    check_extractor,
    check_scheduler,
    check_tokenizer,
    check_vocabulary,
)
from diffoundry.exporter.verify.checks.copied import check_copies
from diffoundry.exporter.verify.checks.graphs import check_graphs, check_sizes
from diffoundry.exporter.verify.checks.nearest_image import Gallery, gallery_of_prompts, open_gallery
from diffoundry.exporter.verify.checks.safety import SafetyReference, ask_safety_checker
from diffoundry.exporter.verify.progress import VerifyProgress
from diffoundry.exporter.verify.reference.component_cases import (
    ComponentCase,
    adapter_case,
    control_cases,
    denoiser_cases,
    edited_cases,
    image_cases,
    random_case,
    text_cases,
)
from diffoundry.exporter.verify.reference.pipeline_trace import Trace, generate_reference, record_calls
from diffoundry.exporter.verify.reference.vae_cases import decoder_cases, encoder_cases
from diffoundry.exporter.verify.report.report import Check
from diffoundry.exporter.verify.request import Settings
from diffoundry.exporter.verify.run_result import is_image
from diffoundry.runtime.images.postprocess import to_pil
from diffoundry.runtime.models.roles import CONTROLNET, DENOISER, PRIOR, SAFETY_CHECKER, T2I_ADAPTER, UPSCALER
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.example_inputs import make_example_inputs

__all__ = ["Reference", "ask_pytorch"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """PyTorch's results for a verification.

    Attributes:
        traces: One for each prompt and seed.
        cases: Inputs of every component recorded in the traces, and PyTorch's outputs.
        checks: Checks without engines: configs and token ids.
        gallery: Gallery that labels the images, or None when there is none.
        safety: Result of the checkpoint's safety checker, or None when it has none.
    """

    traces: Sequence[Trace]
    cases: Sequence[ComponentCase]
    checks: Sequence[Check]
    gallery: Gallery | None
    safety: SafetyReference | None = None


def ask_pytorch(
    checkpoint: Checkpoint, pipeline: PipelineBase, settings: Settings, progress: VerifyProgress
) -> Reference:
    """Compare configs and token ids, generate every image, and run the components on the recorded inputs.

    Args:
        checkpoint: Runs in fp32 on the CPU.
        pipeline: The bundle's pipeline, for its configs and tokenizer; none of its engines is opened.
        settings: Prompts and settings to generate.
        progress: Receives the progress.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    progress.update("PyTorch: loading", 0, 1)
    reference = reference_pipeline(checkpoint, torch.float32)
    bundle = pipeline.session.bundle
    checks = [
        *(check_scheduler(bundle, folder, config) for folder, config in checkpoint.scheduler_configs.items()),
        *check_configs(bundle, checkpoint.components, reference),
        *(
            check_tokenizer(
                encoder.folder,
                encoder.tokenizer,
                tokenizer_of(reference, encoder.folder),
                settings.prompts,
                getattr(encoder, "padding_side", None),
            )
            for encoder in pipeline.text_encoders
        ),
        *(
            check_vocabulary(
                encoder.folder,
                encoder.tokenizer,
                tokenizer_of(reference, encoder.folder),
                getattr(encoder, "padding_side", None),
            )
            for encoder in pipeline.text_encoders
        ),
        *check_copies(bundle, checkpoint),
        *(check for check in [check_sizes(bundle)] if check is not None),
    ]
    for component in checkpoint.components:
        checks += check_graphs(bundle, component, network(reference, component.source))
    # Images are compared before the safety checker; the set of blacked out images is a separate check.
    checker, reference.safety_checker = getattr(reference, "safety_checker", None), None
    denoisers = tuple(one for role in (PRIOR, DENOISER, UPSCALER) for one in checkpoint.with_role(role))
    controlnets, adapters = checkpoint.with_role(CONTROLNET), checkpoint.with_role(T2I_ADAPTER)
    own_vae = any(component.source == "vae" for component in checkpoint.components)
    traces: list[Trace] = []
    cases: list[ComponentCase] = []
    runs = list(product(settings.prompts, settings.seeds))
    for index, (prompt, seed) in enumerate(runs):
        on_step = partial(progress.update, f"PyTorch: {prompt}, seed {seed}")
        with record_calls(reference, (*denoisers, *controlnets, *adapters)) as calls:
            trace = generate_reference(reference, prompt, seed, settings, on_step)
        traces.append(trace)
        place = index / len(runs)
        for denoiser in denoisers:
            cases += denoiser_cases(denoiser, trace, calls[denoiser.name], place)
            if index == 0:
                cases += edited_cases(reference, denoiser, trace, calls[denoiser.name])
        for controlnet in controlnets:
            cases += control_cases(reference, controlnet, trace, calls[controlnet.name], place)
        cases += [adapter_case(adapter, trace, calls[adapter.name][0]) for adapter in adapters]
        if own_vae:
            cases += decoder_cases(reference, trace)
            if any(component.name == "vae_encoder" for component in checkpoint.components):
                cases += encoder_cases(reference, trace)
    quantizer = next((one.source for one in checkpoint.components if one.network == "VQModel"), None)
    if quantizer is not None and traces[0].latents[-1].ndim > 2:  # latents of VQ-Diffusion are codes themselves
        checks += check_codes(pipeline, network(reference, quantizer), [trace.latents[-1] for trace in traces])
    progress.update("PyTorch: text", 0, 1)
    cases += text_cases(reference, checkpoint.components, settings.prompts)
    images = _images(traces, settings)
    checks += check_extractor(bundle, getattr(reference, "feature_extractor", None), images)
    cases += image_cases(reference, checkpoint.components, images)
    safety = None
    if checker is not None:
        reference.safety_checker = checker
        safety = ask_safety_checker(reference, [trace.result for trace in traces])
        cases += safety.cases
    covered = {case.component for case in cases} | ({SAFETY_CHECKER} if safety is not None else set())
    cases += [
        random_case(reference, component, settings.height, settings.width)
        for component in checkpoint.components
        if component.name not in covered
    ]
    gallery = open_gallery(checkpoint.root) or gallery_of_prompts(traces)
    return Reference(traces=traces, cases=cases, checks=checks, gallery=gallery, safety=safety)


def _images(traces: Sequence[Trace], settings: Settings) -> list[Image]:
    """Collect the generated images, and an example image of unusual sides."""
    drawn = make_example_inputs(["image"], settings.height + 37, settings.width + 5)["image"]
    generated = [trace.result for trace in traces if is_image(trace.result)]
    return [drawn, *(to_pil(np.stack(generated)) if generated else [])]

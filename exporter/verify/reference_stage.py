"""All that PyTorch has to say of a checkpoint, asked for once and freed before the engines are opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.pytorch.reference import reference_pipeline
from diffoundry.exporter.verify.cases import Case, control_cases, decoder_cases, encoder_cases, text_cases, unet_cases
from diffoundry.exporter.verify.config_checks import check_configs, check_scheduler, check_tokenizer
from diffoundry.exporter.verify.recognition import Gallery, gallery_of_prompts, open_gallery
from diffoundry.exporter.verify.reference_run import Trace, paint_reference, record_controls, record_unet
from diffoundry.exporter.verify.report import Check
from diffoundry.exporter.verify.request import Settings
from diffoundry.exporter.verify.watch import Watch
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["Reference", "ask_pytorch"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """What a bundle is compared with.

    Attributes:
        traces: One for each prompt and seed.
        cases: Inputs of every component that these met, and what PyTorch makes of them.
        checks: Of what needs no engine: configs and token ids.
        gallery: What names the pictures, or None when nothing is at hand.
    """

    traces: Sequence[Trace]
    cases: Sequence[Case]
    checks: Sequence[Check]
    gallery: Gallery | None


def ask_pytorch(checkpoint: Checkpoint, pipeline: DiffusionPipeline, settings: Settings, watch: Watch) -> Reference:
    """Compare configs and token ids, paint every picture, and run the components on what these fed them.

    Args:
        checkpoint: Runs in fp32 on the CPU.
        pipeline: The bundle's, for its configs and its tokenizer; none of its engines is opened.
        settings: What to paint.
        watch: Told of progress.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    watch.stage("PyTorch: loading", 0, 1)
    reference = reference_pipeline(checkpoint, torch.float32)
    bundle = pipeline.components.bundle
    checks = [
        check_scheduler(bundle, checkpoint.scheduler_config),
        *check_configs(bundle, checkpoint.components, reference),
        *(
            check_tokenizer(encoder.folder, encoder.tokenizer, getattr(reference, encoder.folder), settings.prompts)
            for encoder in pipeline.family.encoders
        ),
    ]
    traces: list[Trace] = []
    cases: list[Case] = []
    runs = list(product(settings.prompts, settings.seeds))
    for index, (prompt, seed) in enumerate(runs):
        tell = partial(watch.stage, f"PyTorch: {prompt}, seed {seed}")
        with record_unet(reference) as calls, record_controls(reference) as controls:
            trace = paint_reference(reference, prompt, seed, settings, tell)
        traces.append(trace)
        cases += unet_cases(checkpoint.component("unet"), trace, calls, index / len(runs))
        cases += control_cases(reference, trace, controls, index / len(runs))
        cases += decoder_cases(reference, trace)
        cases += encoder_cases(reference, trace)
    watch.stage("PyTorch: text", 0, 1)
    cases += text_cases(reference, checkpoint.components, settings.prompts)
    gallery = open_gallery(checkpoint.root) or gallery_of_prompts(traces)
    return Reference(traces=traces, cases=cases, checks=checks, gallery=gallery)

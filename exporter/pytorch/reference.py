"""diffusers' own pipeline of a checkpoint: what a bundle is verified against and measured beside."""

import inspect
from typing import Any

import diffusers
import torch
import transformers

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.pipelines.stand_in import STAND_INS

__all__ = ["reference_pipeline", "stand_ins"]


def reference_pipeline(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Any:
    """Build the diffusers pipeline that a checkpoint names, from the modules that an export traces.

    It has the checkpoint's networks, tokenizers and scheduler, and nothing that a bundle leaves out (safety checker,
    feature extractor). Random weights are those of the export with the same seed. Its progress bar is off.

    Args:
        checkpoint: An opened checkpoint.
        dtype: Of all networks.

    Returns:
        A diffusers pipeline on the CPU, such as `diffusers.StableDiffusionPipeline`.

    Raises:
        CheckpointError: Weights are missing or damaged, or diffusers does not take the scheduler's config.
    """
    index = checkpoint.bundle_model_index()
    parts = {name: _part(checkpoint, name, entry, dtype) for name, entry in index.items() if not name.startswith("_")}
    pipeline = getattr(diffusers, index["_class_name"])(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stand_ins(pipeline: Any) -> tuple[str, ...]:
    """Which of `STAND_INS` a diffusers pipeline takes."""
    taken = inspect.signature(pipeline.__call__).parameters
    return tuple(name for name in STAND_INS if name in taken)


def _part(checkpoint: Checkpoint, name: str, entry: Any, dtype: torch.dtype) -> Any:
    """One argument of the pipeline's constructor, from its entry in model_index.json."""
    if not isinstance(entry, list):
        return entry
    if not any(entry):
        return None
    if name == "scheduler":
        return _scheduler(checkpoint)
    if name.startswith("tokenizer"):
        return transformers.CLIPTokenizer.from_pretrained(checkpoint.root / name, local_files_only=True)
    # Not module.to, which diffusers overrides only to warn that some modules might have to stay in fp32.
    return torch.nn.Module.to(checkpoint.load(name), dtype)


def _scheduler(checkpoint: Checkpoint) -> Any:
    config = dict(checkpoint.scheduler_config)
    name = str(config.get("_class_name"))
    if not name.endswith("Scheduler") or not hasattr(diffusers, name):
        raise CheckpointError(
            f"{checkpoint.root / 'scheduler'}: got the scheduler {name!r}, expected one of diffusers' "
            f"{diffusers.__version__}; install a version that has it"
        )
    return getattr(diffusers, name).from_config(config)

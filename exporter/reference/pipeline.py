"""Builds diffusers' own pipeline of a checkpoint, for verification and as a baseline in benchmarks."""

import functools
import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models import controlnets

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.checkpoints.controlnets import SEVERAL
from diffoundry.exporter.checkpoints.json_files import is_number_list
from diffoundry.exporter.checkpoints.tokenizer_files import holds_tokenizer, open_tokenizer
from diffoundry.exporter.reference.image_text_processor import ImageTextProcessor, mark_images
from diffoundry.exporter.reference.networks import image_projections
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.models.controlnet import is_controlnet
from diffoundry.runtime.models.roles import CONTROLNET, T2I_ADAPTER
from diffoundry.runtime.models.t2i_adapter import is_t2i_adapter

__all__ = ["image_latents", "quiet_libraries", "reference_pipeline"]


def quiet_libraries() -> None:
    """Silence diffusers and transformers, which warn of parts that are left out on purpose, and of autocast in fp32."""
    warnings.filterwarnings("ignore", "In CPU autocast")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()


def reference_pipeline(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Any:
    """Build the diffusers pipeline that a checkpoint names, from the modules that an export traces.

    It has the checkpoint's networks, tokenizers and scheduler, but not the parts that a bundle leaves out, and no
    watermarker, whose file a bundle copies. Random weights are those of the export with the same seed. Its progress bar
    is off.

    Args:
        checkpoint: An opened checkpoint.
        dtype: Dtype of all networks.

    Returns:
        A diffusers pipeline on the CPU, such as `diffusers.StableDiffusionPipeline`.

    Raises:
        CheckpointError: Weights are missing or damaged, or diffusers rejects the scheduler's config.
    """
    index = checkpoint.bundle_model_index()
    parts = {name: _part(checkpoint, name, entry, dtype) for name, entry in index.items() if not name.startswith("_")}
    kind = getattr(diffusers, index["_class_name"])
    taken = inspect.signature(kind.__init__).parameters
    pipeline = kind(**{name: part for name, part in parts.items() if part is not None or name in taken})
    pipeline.set_progress_bar_config(disable=True)
    if isinstance(pipeline, diffusers.ZImageOmniPipeline):
        pipeline.prepare_image_latents = functools.partial(image_latents, pipeline.vae)
    if hasattr(pipeline, "processor"):
        pipeline.text_encoder.register_forward_pre_hook(mark_images, with_kwargs=True)
    if image_projections(pipeline) and pipeline.feature_extractor is None:  # as `load_ip_adapter` does it
        side = pipeline.image_encoder.config.image_size
        extractor = transformers.CLIPImageProcessor(size=side, crop_size=side)
        pipeline.register_modules(feature_extractor=extractor)
    return pipeline


def image_latents(
    vae: Any,
    images: Sequence[torch.Tensor],
    batch_size: int,
    device: Any,  # noqa: ARG001  # as diffusers passes it
    dtype: torch.dtype,
) -> list[list[torch.Tensor]]:
    """Encode images in the dtype of the VAE.

    `ZImageOmniPipeline.prepare_image_latents` rounds pixels to bfloat16, which a VAE in fp32 refuses.
    """
    config, latents = vae.config, []
    for image in images:
        mode = vae.encode(image.to(vae.dtype)).latent_dist.mode()[0]
        latents.append(((mode - config.shift_factor) * config.scaling_factor).unsqueeze(1).to(dtype))
    return [list(latents) for _ in range(batch_size)]


def _part(checkpoint: Checkpoint, name: str, entry: Any, dtype: torch.dtype) -> Any:
    """Build one argument of the pipeline's constructor, from its entry in model_index.json."""
    if not isinstance(entry, list) or is_number_list(entry):
        return entry
    if not any(entry) or name in checkpoint.weight_folders:
        return None
    if name.endswith("scheduler"):
        return _scheduler(checkpoint, name)
    if name == "processor":
        (folder,) = checkpoint.tokenizer_folders
        return ImageTextProcessor(checkpoint.root / name, _tokenizer(checkpoint, folder))
    if holds_tokenizer(name, checkpoint.model_index):
        return _tokenizer(checkpoint, name)
    if is_controlnet(name):
        return _controlnets(checkpoint, dtype)
    if is_t2i_adapter(name):
        modules = [torch.nn.Module.to(checkpoint.load(part.name), dtype) for part in checkpoint.with_role(T2I_ADAPTER)]
        return modules[0] if len(modules) == 1 else diffusers.MultiAdapter(modules)
    if name in ("feature_extractor", "image_processor", "siglip_processor"):
        named = {
            "DPT": transformers.DPTImageProcessor,
            "Siglip2": transformers.Siglip2ImageProcessor,
            "Siglip": transformers.SiglipImageProcessor,
        }
        kind = next((one for name, one in named.items() if entry[1].startswith(name)), transformers.CLIPImageProcessor)
        return kind.from_pretrained(checkpoint.root / name, local_files_only=True)
    # Not module.to, which diffusers overrides only to warn that some modules might have to stay in fp32.
    return torch.nn.Module.to(checkpoint.load(name), dtype)


def _tokenizer(checkpoint: Checkpoint, folder: str) -> Any:
    return open_tokenizer(checkpoint.root / folder, checkpoint.model_index[folder][1])


def _controlnets(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """Load the checkpoint's ControlNet, or wrap several in diffusers' module."""
    names = [component.name for component in checkpoint.with_role(CONTROLNET)]
    modules = [torch.nn.Module.to(checkpoint.load(name), dtype) for name in names]
    if len(modules) == 1:
        return modules[0]
    return getattr(controlnets, SEVERAL[type(modules[0]).__name__])(modules)


def _scheduler(checkpoint: Checkpoint, folder: str) -> Any:
    config = dict(checkpoint.scheduler_configs[folder])
    name = str(config.get("_class_name"))
    if not name.endswith("Scheduler") or not hasattr(diffusers, name):
        raise CheckpointError(
            f"{checkpoint.root / folder}: got the scheduler {name!r}, expected one of diffusers' "
            f"{diffusers.__version__}; install a version that has it"
        )
    return getattr(diffusers, name).from_config(config)

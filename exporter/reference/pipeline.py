"""Builds diffusers' own pipeline of a checkpoint, for verification and as a baseline in benchmarks."""

import functools
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers.models import controlnets
from PIL.Image import Image

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.checkpoints.controlnets import SEVERAL
from diffoundry.exporter.checkpoints.json_files import is_number_list
from diffoundry.exporter.checkpoints.tokenizer_files import is_tokenizer, open_tokenizer
from diffoundry.exporter.reference.image_text_processor import ImageTextProcessor, mark_images
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.models.controlnet import controlnet_name, is_controlnet
from diffoundry.runtime.models.image_projection import ip_adapter_name, is_ip_adapter
from diffoundry.runtime.models.roles import CONTROLNET, T2I_ADAPTER
from diffoundry.runtime.models.t2i_adapter import is_t2i_adapter, t2i_adapter_name
from diffoundry.runtime.pipelines.controlnet import CONTROL_SEED
from diffoundry.runtime.pipelines.example_inputs import (
    ADAPTER,
    CONTROL,
    CONTROL_MASK,
    CONTROL_MODE,
    DEPTH_MAP,
    EXAMPLE_INPUTS,
    IMAGE_PROMPT,
    PROMPT,
)
from diffoundry.runtime.pipelines.tasks import shows_example

__all__ = [
    "call_pipeline",
    "control_names",
    "example_inputs",
    "example_scale",
    "image_latents",
    "network",
    "quiet_libraries",
    "reference_arguments",
    "reference_pipeline",
    "seeded_generator",
    "shifted_decoding",
    "tokenizer_of",
    "watched",
]


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
    if _projections(pipeline) and pipeline.feature_extractor is None:  # as `load_ip_adapter` does it
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


def example_inputs(pipeline: Any) -> tuple[str, ...]:
    """Names of the example inputs of a diffusers pipeline: see `DiffusionPipeline.example_inputs`."""
    if not _takes(pipeline, "prompt"):
        return (IMAGE_PROMPT,)
    if not shows_example(type(pipeline).__name__):
        return ()
    estimates = getattr(pipeline, "depth_estimator", None) is not None
    known = [name for name in EXAMPLE_INPUTS if not (estimates and name == DEPTH_MAP)]
    own = [name for name in (*known, CONTROL_MASK) if _takes(pipeline, name)]
    nets, adapters = control_names(pipeline), _adapters(pipeline)
    if adapters or (nets and not _takes(pipeline, CONTROL)):
        own = []  # its `image` is that of the adapters, or the control image
    if not nets and _takes(pipeline, CONTROL):
        own.append(CONTROL)  # joined to the latents
    if any(getattr(network(pipeline, name), "union", False) for name in nets):
        own.append(CONTROL_MODE)
    return (*own, *[CONTROL] * len(nets), *[ADAPTER] * len(adapters), *[PROMPT] * len(_projections(pipeline)))


def example_scale(pipeline: Any) -> int:
    """Pixels of the result to a pixel of an example image: see `PipelineBase.example_scale`."""
    return int(pipeline.vae_scale_factor) if hasattr(pipeline, "low_res_scheduler") else 1


def reference_arguments(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the arguments of our pipelines for a diffusers pipeline.

    Text to image calls the image for ControlNets or T2I-Adapters `image`, which in other tasks is the initial image.
    Several adapters are scaled as here by default, and get images of as many channels as they take. So does a VAE of
    images with transparency.
    """
    names = {CONTROL: CONTROL if _takes(pipeline, CONTROL) else "image", ADAPTER: "image"}
    tensors = {key: torch.from_numpy(value) for key, value in arguments.items() if isinstance(value, np.ndarray)}
    adapted = _adapter_arguments(pipeline, arguments[ADAPTER]) if ADAPTER in arguments else {}
    nets = getattr(pipeline, "controlnet", None)
    if isinstance(nets, _LISTED):  # whose pipelines have one number as their default, and take a list
        adapted = {"controlnet_conditioning_scale": [1.0] * len(nets.nets), **adapted}
    sides = _sides_of_image(pipeline, arguments)
    if isinstance(arguments.get("image"), Image) and _is_transparent(pipeline):
        tensors["image"] = arguments["image"].convert("RGBA")
    return {names.get(key, key): value for key, value in {**sides, **arguments, **tensors, **adapted}.items()}


def _is_transparent(pipeline: Any) -> bool:
    config: Mapping[str, Any] = getattr(getattr(pipeline, "vae", None), "config", {})
    return len("RGBA") in (config.get("input_channels"), config.get("in_channels"))


_LISTED = (controlnets.SD3MultiControlNetModel, controlnets.FluxMultiControlNetModel)


def _sides_of_image(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Return the size of an image to start from for a class that would resize it to the checkpoint's own size."""
    image = arguments.get("image")
    if not isinstance(image, Image) or not _takes(pipeline, "height"):
        return {}
    return {"height": image.height, "width": image.width}


def _adapter_arguments(pipeline: Any, images: Any) -> dict[str, Any]:
    adapters = _adapters(pipeline).values()
    several = images if isinstance(images, list) else [images]
    converted = [
        image.convert("L" if adapter.config.in_channels == 1 else "RGB")
        for image, adapter in zip(several, adapters, strict=True)
    ]
    if len(converted) == 1:
        return {ADAPTER: converted[0]}
    return {ADAPTER: converted, "adapter_conditioning_scale": [1 / len(converted)] * len(converted)}


def control_names(pipeline: Any) -> tuple[str, ...]:
    """Names of our components for the ControlNets of a diffusers pipeline."""
    nets = getattr(pipeline, "controlnet", None)
    if nets is None:
        return ()
    count = len(getattr(nets, "nets", [nets]))
    return tuple(controlnet_name(index) for index in range(count))


@contextmanager
def seeded_generator(pipeline: Any, seed: int) -> Iterator[torch.Generator]:
    """Yield the generator of a call with which diffusers draws what a bundle draws.

    It is torch's global one, whose state is restored: some pipelines pass none to their scheduler, such as DiTPipeline.
    But some pipelines draw latents of control images with the global one, and a bundle with one of its own.
    """
    with torch.random.fork_rng(devices=[]):
        generator = torch.manual_seed(seed)
        if _draws_apart(getattr(pipeline, "controlnet", None)):
            generator = torch.Generator().manual_seed(seed)
            torch.manual_seed(CONTROL_SEED)
        yield generator


_DRAW_APART = (
    diffusers.SD3ControlNetModel,
    controlnets.SD3MultiControlNetModel,
    diffusers.HunyuanDiT2DControlNetModel,
    controlnets.HunyuanDiT2DMultiControlNetModel,
)
"""ControlNets whose pipelines draw latents of control images without the call's generator."""


def _draws_apart(nets: Any) -> bool:
    """Return whether these ControlNets are of `_DRAW_APART`, or of Qwen-Image with a mask: see `ControlNetModel`."""
    if isinstance(nets, diffusers.QwenImageControlNetModel):
        return bool(nets.config.extra_condition_channels)
    return isinstance(nets, _DRAW_APART)


def network(pipeline: Any, source: str) -> Any:
    """Find the module of a diffusers pipeline for a folder of the checkpoint."""
    if is_t2i_adapter(source):
        return _adapters(pipeline)[source]
    if is_ip_adapter(source):
        return _projections(pipeline)[source]
    names = control_names(pipeline)
    if source not in names or len(names) == 1:
        return getattr(pipeline, source)
    return pipeline.controlnet.nets[names.index(source)]


def tokenizer_of(pipeline: Any, folder: str) -> Any:
    """Return the tokenizer of a folder of the checkpoint, which some classes have in their processor alone."""
    found = getattr(pipeline, folder) if hasattr(pipeline, folder) else pipeline.processor
    return getattr(found, "tokenizer", found)


def _adapters(pipeline: Any) -> dict[str, Any]:
    """Map names of our components to the T2I-Adapters of a diffusers pipeline."""
    found = getattr(pipeline, "adapter", None)
    if found is None:
        return {}
    modules = found.adapters if isinstance(found, diffusers.MultiAdapter) else [found]
    return {t2i_adapter_name(index): module for index, module in enumerate(modules)}


def _projections(pipeline: Any) -> dict[str, Any]:
    """Map names of our components to the projections of the IP-Adapters of a diffusers pipeline."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    multi = getattr(denoiser, "encoder_hid_proj", None)
    layers = getattr(multi, "image_projection_layers", ())
    return {ip_adapter_name(index): layer for index, layer in enumerate(layers)}


def _takes(pipeline: Any, name: str) -> bool:
    return name in inspect.signature(pipeline.__call__).parameters


def call_pipeline(
    pipeline: Any,
    prompt: str,
    on_step: Callable[[int, Any, torch.Tensor], None],
    *,
    watch: bool = False,
    **arguments: Any,
) -> Any:
    """Generate with a diffusers pipeline.

    Args:
        pipeline: A pipeline of any of our families.
        prompt: The prompt; ignored by a pipeline without text, and where `arguments` have its embeddings.
        on_step: Called after every step with (index, timestep, latents).
        watch: True if a step is a step of any of its schedulers, whatever the pipeline does with the result; False if
            the pipeline's own callback decides, where it has one.
        arguments: Arguments of the call. A None argument that the pipeline lacks is skipped.
    """
    taken = inspect.signature(pipeline.__call__).parameters
    arguments = {
        name: value for name, value in arguments.items() if name in taken or (value is not None and name not in _SPARED)
    }
    if "prompt" in taken:
        arguments["prompt"] = prompt if arguments.get("prompt_embeds") is None else None
    # ZImagePipeline writes its chats into the lists of the caller.
    arguments = {name: list(value) if type(value) is list else value for name, value in arguments.items()}
    if type(pipeline).__name__ in _DECODE_UNSHIFTED:
        with shifted_decoding(pipeline):
            return _call(pipeline, on_step, taken, arguments, watch=watch)
    return _call(pipeline, on_step, taken, arguments, watch=watch)


def _call(
    pipeline: Any,
    on_step: Callable[[int, Any, torch.Tensor], None],
    taken: Mapping[str, inspect.Parameter],
    arguments: dict[str, Any],
    *,
    watch: bool,
) -> Any:
    if not watch and type(pipeline).__name__ in _OLD_CALLBACKS:
        return pipeline(callback=on_step, **arguments)
    if watch or "callback_on_step_end" not in taken:
        halves = type(pipeline).__name__ in _STEPS_BOTH_HALVES
        halves = halves and arguments.get("guidance_scale", taken["guidance_scale"].default) > 1
        with watched(pipeline, on_step, halves=halves):
            return pipeline(**arguments)

    def forward_step(_pipeline: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(index, timestep, values["latents"])
        return {}

    return pipeline(callback_on_step_end=forward_step, **arguments)


_SPARED = ("generator", "output_type")
"""Arguments that a class without noise lacks."""

_DECODE_UNSHIFTED = ("StableDiffusion3InpaintPipeline",)
"""Classes that decode without the VAE's `shift_factor`, which they encode with: huggingface/diffusers#14671."""


@contextmanager
def shifted_decoding(pipeline: Any) -> Iterator[None]:
    """Decode with the VAE's `shift_factor`, in versions of diffusers whose pipeline forgets it."""
    if "shift_factor" in inspect.getsource(type(pipeline).__call__):
        yield
        return
    decode, shift = pipeline.vae.decode, pipeline.vae.config.shift_factor or 0.0
    pipeline.vae.decode = lambda latents, *args, **options: decode(latents + shift, *args, **options)
    try:
        yield
    finally:
        del pipeline.vae.decode


_STEPS = ("step", "step_correct", "step_pred")
"""Methods of diffusers' schedulers that make a step."""


_OLD_CALLBACKS = ("IFInpaintingPipeline", "IFInpaintingSuperResolutionPipeline")
"""Classes that change the sample after a step, and whose old `callback` sees every step."""

_STEPS_BOTH_HALVES = ("DiTPipeline",)
"""Classes whose scheduler steps both halves of guidance, of which the first goes on."""


@contextmanager
def watched(
    pipeline: Any, on_step: Callable[[int, Any, torch.Tensor], None], *, halves: bool = False
) -> Iterator[None]:
    """Call `on_step` at every step of every scheduler, with the first half of the rows if `halves`."""
    count = itertools.count()
    schedulers = [part for name, part in pipeline.components.items() if name.endswith("scheduler")]
    methods = [(scheduler, name) for scheduler in schedulers for name in _STEPS if hasattr(scheduler, name)]
    for scheduler, name in methods:
        setattr(scheduler, name, _watched_step(getattr(scheduler, name), count, on_step, halves=halves))
    try:
        yield
    finally:
        for scheduler, name in methods:
            delattr(scheduler, name)


def _watched_step(
    step: Callable[..., Any], count: Iterator[int], on_step: Callable[[int, Any, torch.Tensor], None], *, halves: bool
) -> Callable[..., Any]:
    """Return a scheduler's method that reports the sample that it returns."""

    @functools.wraps(step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        given = step(*args, **kwargs)
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        rows = given[0][: len(given[0]) // 2] if halves else given[0]
        # A correction has the sample as its second argument, and no timestep.
        on_step(next(count), 0.0 if torch.is_tensor(timestep) and timestep.ndim else timestep, rows)
        return given

    return watched


def _part(checkpoint: Checkpoint, name: str, entry: Any, dtype: torch.dtype) -> Any:
    """Build one argument of the pipeline's constructor, from its entry in model_index.json."""
    if not isinstance(entry, list) or is_number_list(entry):
        return entry
    if not any(entry) or name in checkpoint.weight_folders:
        return None
    if name.endswith("scheduler"):
        return _scheduler(checkpoint, name)
    if is_tokenizer(name):
        return open_tokenizer(checkpoint.root / name, entry[1])
    if is_controlnet(name):
        return _controlnets(checkpoint, dtype)
    if is_t2i_adapter(name):
        modules = [torch.nn.Module.to(checkpoint.load(part.name), dtype) for part in checkpoint.with_role(T2I_ADAPTER)]
        return modules[0] if len(modules) == 1 else diffusers.MultiAdapter(modules)
    if name == "processor":
        folder = "tokenizer" if "tokenizer" in checkpoint.model_index else name
        tokenizer = open_tokenizer(checkpoint.root / folder, checkpoint.model_index[folder][1])
        return ImageTextProcessor(checkpoint.root / name, tokenizer)
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

"""Names of diffusers that a pipeline here lacks: aliases, and one sentence each with our way."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.suggest import did_you_mean

if TYPE_CHECKING:
    from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["argument_advice", "check_target", "find_attribute", "from_pretrained"]

_IMAGE_PROMPTS = "only the pipelines of Stable Diffusion 1, 2 and XL take image prompts"

_ARGUMENTS = {
    "callback": "pass callback_on_step_end=function, which takes (pipe, step, timestep, tensors) and returns a dict",
    "callback_steps": "callback_on_step_end is called after every step; count there",
    "cross_attention_kwargs": "set the scale of a LoRA with pipe.loras.set_scale(0.5), or in pipe.loras.load(path, "
    "scale=0.5); pass masks of image prompts as ip_adapter_masks",
    "joint_attention_kwargs": "set the scale of a LoRA with pipe.loras.set_scale(0.5)",
    "ip_adapter_image": _IMAGE_PROMPTS,
    "ip_adapter_image_embeds": _IMAGE_PROMPTS,
    "controlnet_prompt_embeds": "pass prompt_embeds, which ControlNets take too",
    "controlnet_pooled_projections": "ControlNets get the pooled prompt or zeros, as their config says",
    "return_dict": "start() returns a run; use its finish(), or call the pipeline",
    "n_iter": "pass num_images_per_prompt",
    "batch_size": "pass num_images_per_prompt",
    "num_samples": "pass num_images_per_prompt",
    "steps": "pass num_inference_steps",
    "cfg_scale": "pass guidance_scale",
    "sampler": "pass scheduler",
    "sampler_name": "pass scheduler",
}
"""Arguments of diffusers' calls and of other programs, to our way."""

_ALIASES = {
    "enable_vae_tiling": "vae.enable_tiling",
    "disable_vae_tiling": "vae.disable_tiling",
    "enable_vae_slicing": "vae.enable_slicing",
    "disable_vae_slicing": "vae.disable_slicing",
    "load_textual_inversion": "embeddings.load",
    "unload_textual_inversion": "embeddings.unload",
    "unload_lora_weights": "loras.unload",
    "load_lora": "loras.load",  # names of diffoundry 0.1, from here
    "set_lora_scale": "loras.set_scale",
    "unload_lora": "loras.unload",
    "vae_scale_factor": "vae.scale_factor",
}
"""Names of diffusers that do the same here, to the attribute."""

_LOW_MEMORY = "load the bundle with load(path, low_memory=True)"
_NATIVE = "the engines choose their attention kernels when a bundle is exported; leave it out"
_CALL = "it is an argument of the call"
_DEVICE = "choose the device in load(path, device=...)"
_NO_FREEU = "FreeU is not supported: the graph of the UNet is fixed"
_IP_ADAPTERS = "export the bundle with its IP-Adapters: 'diffoundry export --ip-adapter'"
_PRECISION = "choose the precision in load(path, precision=...)"
_LORAS = "see pipe.loras: load, set_scale, unload and scales"

_ATTRIBUTES = {
    "components": "the engines are in pipe.session, their names in pipe.session.bundle.components",
    "unet": "the network that runs in every step is pipe.denoiser",
    "transformer": "the network that runs in every step is pipe.denoiser",
    "text_encoder": "the text encoders are in pipe.text_encoders",
    "text_encoder_2": "the text encoders are in pipe.text_encoders",
    "tokenizer": "it is pipe.text_encoders[0].tokenizer",
    "tokenizer_2": "it is pipe.text_encoders[1].tokenizer",
    "config": "the configs are in pipe.session.bundle: model_index and config(component)",
    "adapter": "the T2I-Adapters are in pipe.t2i_adapters",
    "controlnet": "the ControlNets are in pipe.controlnets",
    "feature_extractor": "the safety checker reads images itself: pipe.safety_checker",
    "image_processor": "pipe.decode(latents) makes images; pipe.vae encodes and decodes",
    "device": "pipe.session.choice(component).device names the device of a component",
    "dtype": "pipe.session.choice(component).spec.precision names the precision of a component",
    "encode_prompt": "pass prompt_embeds= to the call; the encoders are in pipe.text_encoders",
    "prepare_latents": "pass latents= to the call",
    "decode_latents": "call pipe.decode(latents)",
    "progress_bar": "iterate over pipe.start(prompt) for the steps",
    "save_pretrained": "a bundle is a folder that can be copied; 'diffoundry export' makes one",
    "save_lora_weights": "a LoRA stays in its own file",
    "fuse_lora": "it is not needed: a loaded LoRA costs little; 'diffoundry export --lora' makes it part of a bundle",
    "unfuse_lora": _LORAS,
    "set_adapters": "set the scale of a LoRA with pipe.loras.set_scale(scale, name)",
    "get_active_adapters": "the loaded LoRAs are in pipe.loras.scales",
    "get_list_adapters": "the loaded LoRAs are in pipe.loras.scales",
    "delete_adapters": "call pipe.loras.unload(name)",
    "enable_lora": _LORAS,
    "disable_lora": "call pipe.loras.set_scale(0.0), or pipe.loras.unload()",
    "set_lora_device": _LORAS,
    "lora_scale": _LORAS,
    "num_fused_loras": _LORAS,
    "load_ip_adapter": _IP_ADAPTERS,
    "unload_ip_adapter": "without ip_adapter_image a call generates as without IP-Adapters",
    "set_ip_adapter_scale": "pass ip_adapter_scale to the call",
    "prepare_ip_adapter_image_embeds": "pass ip_adapter_image to the call",
    "image_encoder": "the image encoder of IP-Adapters is pipe.image_prompts.encoder",
    "enable_freeu": _NO_FREEU,
    "disable_freeu": _NO_FREEU,
    "enable_model_cpu_offload": _LOW_MEMORY,
    "enable_sequential_cpu_offload": _LOW_MEMORY,
    "enable_group_offload": _LOW_MEMORY,
    "maybe_free_model_hooks": "call pipe.close()",
    "remove_all_hooks": "call pipe.close()",
    "reset_device_map": _DEVICE,
    "hf_device_map": _DEVICE,
    "cuda": _DEVICE,
    "cpu": _DEVICE,
    "_execution_device": "pipe.session.choice(component).device names the device of a component",
    "half": _PRECISION,
    "float": _PRECISION,
    "bfloat16": _PRECISION,
    "enable_attention_slicing": _NATIVE,
    "disable_attention_slicing": _NATIVE,
    "enable_xformers_memory_efficient_attention": _NATIVE,
    "disable_xformers_memory_efficient_attention": _NATIVE,
    "set_attention_backend": _NATIVE,
    "fuse_qkv_projections": _NATIVE,
    "upcast_vae": "choose the precision when exporting: 'diffoundry export --precision'",
    "from_pipe": "one pipeline does all tasks of its checkpoint: pass image, mask_image or control_image to the call",
    "from_single_file": "export the file first: 'diffoundry export --model FILE --target onnxruntime -o NAME.bundle'",
    "interrupt": "call run.cancel(), or set pipe._interrupt in a callback",
    "num_timesteps": "run.total and step.total are the number of steps",
    "guidance_scale": _CALL,
    "guidance_rescale": _CALL,
    "clip_skip": _CALL,
    "do_classifier_free_guidance": "guidance runs where guidance_scale is above 1",
    "cross_attention_kwargs": "set the scale of a LoRA with pipe.loras.set_scale(0.5)",
    "run_safety_checker": "call pipe.safety_checker(images), or generate with it loaded",
    "numpy_to_pil": "pass output_type='pil' to the call",
    "check_inputs": "the call checks its arguments before anything is computed",
    "name_or_path": "the folder is pipe.session.bundle.root",
    "push_to_hub": "a bundle is a folder: upload it with 'hf upload'",
    "download": "load(path) takes the id of a bundle on the hub",
    "register_modules": "export the bundle with its components: 'diffoundry export'",
}
"""Other names of diffusers' pipelines, to our way."""

_CHOICES = {
    "torch_dtype": "choose the precision of the engines: precision='fp16'",
    "dtype": "choose the precision of the engines: precision='fp16'",
    "variant": "choose the precision of the engines: precision='fp16'",
    "revision": "a bundle has one state; export the revision that you need",
    "device_map": "choose the device: device='cuda'",
    "provider": "choose the device: device='cuda'",
    "custom_pipeline": "custom pipelines are not supported",
    "adapter": "export the bundle with its T2I-Adapters: 'diffoundry export --t2i-adapter'",
    "controlnet": "export the bundle with its ControlNets: 'diffoundry export --controlnet'",
    "vae": "export the bundle with it: 'diffoundry export --vae'",
}
"""Options of diffusers' `from_pretrained`, to our way."""

_WITHOUT_EFFECT = ("use_safetensors", "local_files_only", "low_cpu_mem_usage", "requires_safety_checker")
"""Options of diffusers' `from_pretrained` that ask for what is always so here."""


def argument_advice(name: str) -> str | None:
    """Return the way to do what an argument of diffusers or another program does; None where we know none."""
    advice = _ARGUMENTS.get(name)
    return None if advice is None else f"no such argument; {advice}"


def find_attribute(pipeline: Any, name: str) -> Any:
    """Return what an attribute of diffusers is called here.

    Raises:
        AttributeError: There is no such attribute; the message says how it is done here, or suggests a name.
    """
    if name in _ALIASES:
        found = pipeline
        for part in _ALIASES[name].split("."):
            found = getattr(found, part)
        return found
    if name == "load_lora_weights":
        return _LoadLora(pipeline)
    if name == "set_progress_bar_config":
        return _no_progress_bar
    cls = type(pipeline).__name__
    if name in _ATTRIBUTES:
        raise AttributeError(f"{cls} has no {name!r} as in diffusers; {_ATTRIBUTES[name]}", name=name, obj=pipeline)
    known = [] if name.startswith("_") else [word for word in dir(pipeline) if not word.startswith("_")]
    raise AttributeError(f"{cls!r} object has no attribute {name!r}.{did_you_mean(name, known)}")


class _LoadLora:
    """`load_lora_weights` of diffusers, for one file."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __call__(
        self, path: str | os.PathLike[str], *, weight_name: str | None = None, adapter_name: str | None = None
    ) -> None:
        """Load a LoRA from a file, or from a file in a folder; see `Loras.load`."""
        self._pipeline.loras.load(Path(path) / weight_name if weight_name else path, name=adapter_name)


def _no_progress_bar(**options: Any) -> None:
    """Do nothing: a pipeline shows no progress bar."""


def from_pretrained(path: str | os.PathLike[str], options: Mapping[str, Any]) -> "DiffusionPipeline":
    """Open a bundle with the options of `load`, and refuse those of diffusers with our way.

    Raises:
        InputError: As said.
    """
    from diffoundry.runtime.pipelines import load  # it imports the pipeline, which imports this module

    for name in options:
        if name in _CHOICES and options[name] is not None:
            raise InputError(f"{name}: from_pretrained of a bundle takes no such option; {_CHOICES[name]}")
    ignored = ("scheduler", *_WITHOUT_EFFECT, *_CHOICES)
    taken = {name: value for name, value in options.items() if name not in ignored}
    known = ("target", "precision", "device", "threads", "options", "low_memory", "memory", "safety_checker",
             "scheduler")  # fmt: skip
    unknown = [name for name in taken if name not in known]
    if unknown:
        raise InputError(
            f"{unknown[0]}: from_pretrained of a bundle takes no such option.{did_you_mean(unknown[0], known)} "
            f"Expected one of {', '.join(known)}"
        )
    pipeline = load(path, **taken)
    if options.get("scheduler") is not None:
        pipeline.scheduler = options["scheduler"]
    return pipeline


def check_target(session: EngineSession, target: object) -> None:
    """Refuse an argument of `to` that engines do not already fulfil.

    Args:
        session: The engines.
        target: A device as diffusers names it, or a `torch.device`, or a `torch.dtype`.

    Raises:
        InputError: As said.
        EngineError: No engine can run here.
    """
    name = str(target)
    if name.startswith("torch."):
        raise InputError(f"to: got {name}, but the precision is chosen when loading: load(path, precision='fp16')")
    devices = [choice.device for part in session.bundle.components if (choice := session.choice(part)) is not None]
    wrong = [device for device in devices or ["cpu"] if device != name and device.partition(":")[0] != name]
    if wrong:
        raise InputError(
            f"to: got {name!r}, but the engines run on {wrong[0]!r} and cannot move; load the bundle for that device: "
            f"load(path, device={name!r})"
        )

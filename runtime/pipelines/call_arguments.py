"""The signature of a call, for type checkers, completion and `help`: one `TypedDict` of all arguments."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack, overload

from diffoundry.runtime.checks.class_labels import ClassLabels
from diffoundry.runtime.images.mask import MaskInput
from diffoundry.runtime.images.pixels import ImageInput
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.controlnet_inputs import ControlInput
from diffoundry.runtime.pipelines.ip_adapter_inputs import EncodedImages, PromptImages, PromptMasks, PromptScale
from diffoundry.runtime.pipelines.output import PipelineOutput
from diffoundry.runtime.pipelines.t2i_adapter import AdapterInput
from diffoundry.runtime.random import GeneratorInput
from diffoundry.runtime.schedulers import SchedulerInput

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffoundry.runtime.pipelines.run import Run

__all__ = ["CallArguments", "call_signature", "has_signature", "start_signature"]

Texts: TypeAlias = str | Sequence[str]
F = TypeVar("F", bound=Callable[..., Any])


class CallArguments(TypedDict, total=False):
    """Every argument of a call but `prompt` and `output_type`, of families, tasks and systems; see their classes."""

    # CommonInputs
    height: int | None
    width: int | None
    num_inference_steps: int
    timesteps: Sequence[float] | None
    sigmas: Sequence[float] | None
    mu: float | None
    denoising_end: float | None
    guidance_scale: float
    guidance_rescale: float
    guidance_interval: tuple[float, float] | None
    cache: str | None
    num_images_per_prompt: int
    eta: float
    seed: int | Sequence[int] | None
    generator: GeneratorInput | None
    latents: FloatArray | None
    scheduler: SchedulerInput | None
    callback_on_step_end: Callable[..., Any] | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    # PromptInputs, CLIPPromptInputs
    negative_prompt: Texts | None
    prompt_embeds: FloatArray | None
    negative_prompt_embeds: FloatArray | None
    clip_skip: int | None
    prompt_weighting: bool
    long_prompts: bool
    # XLPromptInputs
    prompt_2: Texts | None
    negative_prompt_2: Texts | None
    pooled_prompt_embeds: FloatArray | None
    negative_pooled_prompt_embeds: FloatArray | None
    original_size: tuple[int, int] | None
    crops_coords_top_left: tuple[int, int]
    target_size: tuple[int, int] | None
    negative_original_size: tuple[int, int] | None
    negative_crops_coords_top_left: tuple[int, int]
    negative_target_size: tuple[int, int] | None
    aesthetic_score: float
    negative_aesthetic_score: float
    # SD3PromptInputs
    prompt_3: Texts | None
    negative_prompt_3: Texts | None
    max_sequence_length: int
    skip_guidance_layers: Sequence[int] | None
    skip_layer_guidance_scale: float | None
    skip_layer_guidance_start: float | None
    skip_layer_guidance_stop: float | None
    # FluxPromptInputs
    true_cfg_scale: float
    max_area: int
    _auto_resize: bool
    # FluxReduxInputs
    prompt_embeds_scale: float | Sequence[float]
    pooled_prompt_embeds_scale: float | Sequence[float]
    # ZImagePromptInputs
    cfg_normalization: bool | float
    cfg_truncation: float | None
    # QwenImagePromptInputs
    prompt_embeds_mask: FloatArray | None
    negative_prompt_embeds_mask: FloatArray | None
    cfg_normalize: bool
    # ControlNetInputs
    control_image: "ControlInput | None"
    controlnet_conditioning_scale: float | Sequence[float] | None
    control_guidance_start: float | Sequence[float] | None
    control_guidance_end: float | Sequence[float] | None
    guess_mode: bool | None
    control_mask: "MaskInput | None"
    control_mode: int | Sequence[int | None] | None
    # AttentionInputs
    cross_attention_kwargs: Mapping[str, Any] | None
    heat_map_words: Texts | None
    # T2IAdapterInputs
    adapter_image: "AdapterInput | None"
    adapter_conditioning_scale: float | Sequence[float] | None
    adapter_conditioning_factor: float | None
    # ImagePromptInputs
    ip_adapter_image: "PromptImages | None"
    ip_adapter_image_embeds: "EncodedImages | None"
    ip_adapter_scale: "PromptScale | None"
    ip_adapter_masks: "PromptMasks | None"
    negative_ip_adapter_image: "PromptImages | None"
    negative_ip_adapter_image_embeds: "EncodedImages | None"
    # ImageToImage, Inpainting, Instruction, ImagePrompt
    image: "ImageInput | Sequence[Image] | None"
    mask_image: MaskInput
    strength: float
    denoising_start: float | None
    padding_mask_crop: int | None
    masked_image_latents: FloatArray | None
    image_reference: "ImageInput | None"
    # Upscaling, ConsistencyPromptInputs, Instruction, LayerDecomposition, ImageConditioning
    original_inference_steps: int | None
    image_guidance_scale: float
    depth_map: Any
    layers: int
    resolution: int
    output_resolution: int
    noise_level: int
    image_embeds: Any
    negative_image_embeds: Any
    hint: "ImageInput | None"
    # Systems: see `runtime/pipelines/systems/`
    batch_size: int
    use_clipped_model_output: bool | None
    class_labels: ClassLabels | None
    jump_length: int
    jump_n_sample: int
    prior_num_inference_steps: int
    prior_latents: FloatArray | None
    prior_guidance_scale: float
    text_model_output: tuple[Any, Any] | None
    text_attention_mask: Any
    decoder_num_inference_steps: int
    decoder_latents: FloatArray | None
    decoder_guidance_scale: float
    super_res_num_inference_steps: int
    super_res_latents: FloatArray | None
    image_embeddings: Any
    images: "Image | Sequence[Image] | None"
    prompt_embeds_pooled: FloatArray | None
    negative_prompt_embeds_pooled: FloatArray | None
    original_image: "ImageInput | Sequence[Image] | None"
    clean_caption: bool | None
    disable_watermark: bool
    attention_mask: Any
    negative_attention_mask: Any
    prompt_attention_mask: Any
    negative_prompt_attention_mask: Any
    use_resolution_binning: bool
    complex_human_instruction: Sequence[str] | None
    max_timesteps: float
    intermediate_timesteps: float | None
    pag_scale: float
    pag_adaptive_scale: float
    pag_applied_layers: str | Sequence[str]
    prompt_embeds_2: FloatArray | None
    negative_prompt_embeds_2: FloatArray | None
    prompt_attention_mask_2: Any
    negative_prompt_attention_mask_2: Any
    system_prompt: str | None
    cfg_trunc_ratio: float
    frame_size: int | None
    truncation_rate: float


@overload
def call_signature(
    self: Any,
    prompt: Texts | None = None,
    *,
    output_type: Literal["pil"] = "pil",
    return_dict: Literal[True] = True,
    **arguments: Unpack[CallArguments],
) -> "PipelineOutput[list[Image]]": ...
@overload
def call_signature(
    self: Any,
    prompt: Texts | None = None,
    *,
    output_type: Literal["np", "latent"],
    return_dict: Literal[True] = True,
    **arguments: Unpack[CallArguments],
) -> PipelineOutput[FloatArray]: ...
@overload
def call_signature(
    self: Any,
    prompt: Texts | None = None,
    *,
    output_type: str = "pil",
    return_dict: Literal[False],
    **arguments: Unpack[CallArguments],
) -> tuple[Any, ...]: ...
@overload
def call_signature(
    self: Any,
    prompt: Texts | None = None,
    *,
    output_type: str = "pil",
    return_dict: bool = True,
    **arguments: Unpack[CallArguments],
) -> Any: ...
def call_signature(self: Any, prompt: Texts | None = None, *, return_dict: bool = True, **arguments: Any) -> Any:
    """The signature of `DiffusionPipeline.__call__`, which `has_signature` attaches to it."""
    return self(prompt, return_dict=return_dict, **arguments)


@overload
def start_signature(
    self: Any,
    prompt: Texts | None = None,
    *,
    output_type: Literal["pil"] = "pil",
    **arguments: Unpack[CallArguments],
) -> "Run[list[Image]]": ...
@overload
def start_signature(
    self: Any,
    prompt: Texts | None = None,
    *,
    output_type: Literal["np", "latent"],
    **arguments: Unpack[CallArguments],
) -> "Run[FloatArray]": ...
@overload
def start_signature(
    self: Any,
    prompt: Texts | None = None,
    *,
    output_type: str = "pil",
    **arguments: Unpack[CallArguments],
) -> "Run[Any]": ...
def start_signature(self: Any, prompt: Texts | None = None, **arguments: Any) -> Any:
    """The signature of `DiffusionPipeline.start`."""
    return self.start(prompt, **arguments)


def has_signature(signature: F) -> Callable[[Callable[..., Any]], F]:
    """Give a method, which takes any keyword arguments, the types of `signature` and its arguments' names."""

    def attach(method: Any) -> Any:
        first = [p for p in inspect.signature(signature).parameters.values() if p.kind is not p.VAR_KEYWORD]
        types = {"output_type": str, **CallArguments.__annotations__}
        more = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=..., annotation=t) for n, t in types.items()
        ]
        method.__signature__ = inspect.Signature([*first, *more])
        return method

    return attach

"""The table of parameters, and those that each endpoint takes."""

from collections.abc import Mapping
from types import MappingProxyType

from diffoundry.serving.server.parameters import Kind, Parameter

__all__ = ["CALL_ARGUMENTS", "ENDPOINTS", "IMAGES", "NEUTRAL", "PARAMETERS"]

_TEXT, _INTEGER, _NUMBER, _BOOLEAN, _IMAGE = Kind.TEXT, Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN, Kind.IMAGE

_LONGEST = 32_000
"""Characters of a prompt; OpenAI's own bound."""


_MOST_STEPS = 1000
"""Steps of a scheduler, and entries of a list of its times."""


def _text(name: str, meaning: str) -> Parameter:
    return Parameter(name=name, kind=_TEXT, meaning=meaning, low=0, high=_LONGEST)


def _number(name: str, meaning: str, several: str = "", **bounds: float) -> Parameter:
    return Parameter(name=name, kind=_NUMBER, meaning=meaning, several=several, **bounds)  # type: ignore[arg-type]


def _integer(name: str, meaning: str, several: str = "", **bounds: float) -> Parameter:
    return Parameter(name=name, kind=_INTEGER, meaning=meaning, several=several, **bounds)  # type: ignore[arg-type]


def _flag(name: str, meaning: str) -> Parameter:
    return Parameter(name=name, kind=_BOOLEAN, meaning=meaning)


def _image(name: str, meaning: str, several: str = "") -> Parameter:
    return Parameter(name=name, kind=_IMAGE, meaning=meaning, several=several)


_OPENAI = (
    Parameter(name="prompt", kind=_TEXT, meaning="The prompt.", low=1, high=_LONGEST),
    Parameter(name="model", kind=_TEXT, meaning="Name of a bundle's folder; needed where there are several.", low=1),
    _integer("n", "Number of images.", low=1, high=10),
    Parameter(name="size", kind=_TEXT, meaning="WIDTHxHEIGHT in pixels, or auto.", low=3, high=11),
    Parameter(
        name="output_format", kind=_TEXT, meaning="Format of the images; png by default.",
        choices=("png", "jpeg", "webp"),
    ),
    _integer(
        "output_compression", "Quality of jpeg and webp. By default jpeg has 95, and webp keeps every pixel.",
        low=0, high=100,
    ),
    Parameter(
        name="response_format", kind=_TEXT, meaning="Images in the answer, by default, or URLs.",
        choices=("b64_json", "url"),
    ),
    _flag("stream", "Send events while the image is generated."),
    _integer("partial_images", "Number of previews of a stream.", low=0, high=3),
    Parameter(name="user", kind=_TEXT, meaning="Written to the server's log.", low=0, high=512),
    Parameter(name="safety_identifier", kind=_TEXT, meaning="Written to the log instead of user.", low=0, high=64),
)  # fmt: skip

NEUTRAL: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "quality": (("auto",), "the model and num_inference_steps decide; pass num_inference_steps, or a preset"),
        "style": ((), "the prompt decides; write the style into prompt"),
        "background": (("auto", "opaque"), "images have no transparency"),
        "moderation": (("auto",), "the bundle's own safety checker decides"),
        "input_fidelity": ((), "strength decides how much of image changes; pass strength"),
        "complexity": ((), "there is no planning of an image"),
        "frame_count": ((), "the result is one image"),
        "frame_duration_ms": ((), "the result is one image"),
        "svg": ((), "the result has pixels"),
        "markup": ((), "the prompt and mask say what to change; pass mask"),
    }
)
"""OpenAI's parameters without a meaning here: the values that change nothing, and why there are no others."""

_PROMPTS = (
    _text("negative_prompt", "What the image should not show."),
    _text("prompt_2", "Prompt of the second text encoder."),
    _text("negative_prompt_2", "Negative prompt of the second text encoder."),
    _text("prompt_3", "Prompt of the third text encoder."),
    _text("negative_prompt_3", "Negative prompt of the third text encoder."),
    _text("system_prompt", "Lumina: the text before the prompt."),
    _integer("clip_skip", "Last layers of the text encoder to skip.", low=0),
    _flag("prompt_weighting", "Read (word:1.3) as weights."),
    _flag("long_prompts", "Encode long prompts in chunks."),
    _integer("max_sequence_length", "Most tokens of a prompt.", low=1),
    _flag("clean_caption", "Clean the prompt of addresses and marks."),
)

_LOOP = (
    _integer(
        "seed",
        "Seed of torch's CPU generator, or one for each image. Random by default.",
        "also",
        low=-(2**63),
        high=2**64 - 1,
    ),
    _integer("num_inference_steps", "Steps of the scheduler.", low=1, high=_MOST_STEPS),
    _number("guidance_scale", "1 or less turns guidance off.", low=0),
    _number("guidance_rescale", "Lin et al. 2023.", low=0, high=1),
    _number("true_cfg_scale", "Guidance by negative_prompt where guidance_scale is embedded.", low=0),
    Parameter(
        name="scheduler", kind=_TEXT, meaning="Such as euler_a, dpmpp_2m_karras, EulerDiscrete.", low=1, high=100
    ),
    _number("eta", "DDIM's eta.", low=0, high=1),
    _number("guidance_interval", "Two fractions of the steps between which guidance runs.", "only", low=0, high=1),
    Parameter(name="cache", kind=_TEXT, meaning="Forecasts of some steps, such as taylor:1.", low=1, high=100),
    _number("denoising_start", "Fraction of the schedule to skip.", low=0, high=1),
    _number("denoising_end", "Fraction of the schedule to stop after.", low=0, high=1),
    _number("cfg_normalization", "Z-Image: limit of a guided prediction's norm.", low=0),
    _flag("cfg_normalize", "Qwen-Image-Layered: keep the length of each token under guidance."),
    _number("cfg_truncation", "Z-Image: time up to which guidance runs.", low=0, high=1),
    _number("cfg_trunc_ratio", "Lumina: fraction of the steps that guidance runs.", low=0, high=1),
    _integer("skip_guidance_layers", "Layers of skip-layer guidance.", "only", low=0),
    _number("skip_layer_guidance_scale", "Weight of skip-layer guidance."),
    _number("skip_layer_guidance_start", "Fraction of the steps where it begins.", low=0, high=1),
    _number("skip_layer_guidance_stop", "Fraction of the steps where it ends.", low=0, high=1),
    _number("pag_scale", "Weight of perturbed-attention guidance.", low=0),
    _number("pag_adaptive_scale", "Its decrease over the steps.", low=0),
)

_STAGES = (
    _integer("prior_num_inference_steps", "Steps of the prior.", low=1, high=_MOST_STEPS),
    _number("prior_guidance_scale", "Guidance of the prior; 1 or less turns it off.", low=0),
    _number(
        "prior_timesteps", "Wuerstchen: times of the prior, from 1 to 0, descending.", "only", low=0, high=1,
        count=_MOST_STEPS,
    ),
    _integer("decoder_num_inference_steps", "unCLIP: steps of the decoder.", low=1, high=_MOST_STEPS),
    _number("decoder_guidance_scale", "unCLIP: guidance of the decoder.", low=0),
    _integer("super_res_num_inference_steps", "unCLIP: steps of the super-resolution.", low=1, high=_MOST_STEPS),
)  # fmt: skip

_SPECIAL = (
    _number(
        "timesteps", "Consistency models: places in the trained noise levels, descending.", "only", low=0,
        count=_MOST_STEPS,
    ),
    _flag("use_clipped_model_output", "DDIM: compute the noise again from the clipped image."),
    _integer("jump_length", "RePaint: steps that a jump goes back.", low=1, high=100),
    _integer("jump_n_sample", "RePaint: times through each stretch.", low=1, high=100),
    _number("truncation_rate", "VQ-Diffusion: draw among the most likely codes.", low=0, high=1),
    _number("max_timesteps", "Sana-Sprint: first timestep.", low=0, high=1.5708),
    _number("intermediate_timesteps", "Sana-Sprint: second of two timesteps.", low=0, high=1.5708),
    _number("prompt_embeds_scale", "Redux: weight of the tokens of each image and its prompt.", "also"),
    _number("pooled_prompt_embeds_scale", "Redux: weight of each pooled vector.", "also"),
    Parameter(
        name="pag_applied_layers", kind=_TEXT, several="only", meaning="Layers of perturbed-attention guidance.",
        low=1, high=200,
    ),
    Parameter(
        name="complex_human_instruction", kind=_TEXT, several="only", low=0, high=1000,
        meaning="Sana: lines before the prompt; one empty line for none.",
    ),
)  # fmt: skip

_SIZES = (
    _integer("original_size", "XL: height and width before scaling.", "only", low=0),
    _integer("target_size", "XL: height and width after scaling.", "only", low=0),
    _integer("crops_coords_top_left", "XL: top and left of the crop.", "only", low=0),
    _number("aesthetic_score", "XL refiner: score of the prompt."),
    _number("negative_aesthetic_score", "XL refiner: score of the negative prompt."),
    _integer("max_area", "Kontext: pixels of the result.", low=1),
    _flag("use_resolution_binning", "Generate at the nearest trained size, and scale."),
)

_EDITING = (
    _number("strength", "How much of image may change.", low=0, high=1),
    _integer("padding_mask_crop", "Pixels around the mask; only this region is generated.", low=0),
    _number("image_guidance_scale", "InstructPix2Pix: similarity to image.", low=0),
    _integer("noise_level", "Upscaling: noise that is added to image.", low=0),
    _integer("layers", "Qwen-Image-Layered: layers of each result.", low=1, high=64),
    _integer("resolution", "Qwen-Image-Layered: side of a square with as many pixels, 640 or 1024.", low=1),
    _integer("output_resolution", "Qwen-Image 2.1: side of a square with as many pixels.", low=32, high=8192),
)

_CONDITIONS = (
    _number("controlnet_conditioning_scale", "Weight of each ControlNet.", "also"),
    _number("control_guidance_start", "Fraction of the steps at which it begins.", "also", low=0, high=1),
    _number("control_guidance_end", "Fraction of the steps at which it ends.", "also", low=0, high=1),
    _flag("guess_mode", "ControlNets ignore the negative prompt."),
    _integer("control_mode", "Union ControlNet: the kind of each control_image.", "also", low=0),
    _number("adapter_conditioning_scale", "Weight of each T2I-Adapter.", "also"),
    _number("adapter_conditioning_factor", "Fraction of the steps at which they end.", low=0, high=1),
    _number("ip_adapter_scale", "Weight of each IP-Adapter.", "also"),
    _integer("class_labels", "Number of a class, for models that were trained with classes.", "also", low=0),
)

_OWN = (
    _integer("previews", "Number of previews of a stream, instead of partial_images.", low=0, high=1000),
    Parameter(name="preset", kind=_TEXT, meaning="A preset of the bundle, made by tune.", low=1, high=100),
    Parameter(
        name="loras", kind=_TEXT, several="also", count=4, low=1, high=200,
        meaning="NAME or NAME:SCALE of LoRAs in the folder that the operator allows.",
    ),
)  # fmt: skip

_CONDITION_IMAGES = (
    _image("control_image", "Image for each ControlNet.", "also"),
    _image("control_mask", "Mask of an inpainting ControlNet."),
    _image("adapter_image", "Image for each T2I-Adapter.", "also"),
    _image("ip_adapter_image", "Image prompts.", "also"),
    _image("ip_adapter_masks", "Mask of each image prompt.", "also"),
    _image("hint", "Kandinsky: depth or the like."),
    _image("images", "Stable Cascade, Redux: images that the prior reads.", "also"),
    _image("prior_image", "Redux in a chain: images that the prior reads.", "also"),
)

_EDIT_IMAGES = (
    _image("image", "The image to start from; several where the model sees several.", "also"),
    _image("mask", "Transparent where the image is generated again."),
    _image("mask_image", "White where the image is generated again, as in diffusers."),
    _image("image_reference", "FLUX.2, Kontext: images to see while a part is generated.", "also"),
    _image("depth_map", "Depth of image, bright where near."),
    _image("original_image", "DeepFloyd IF: the image that image was made of."),
)

_CALL = (*_PROMPTS, *_LOOP, *_STAGES, *_SPECIAL, *_SIZES, *_EDITING, *_CONDITIONS)

CALL_ARGUMENTS = tuple(parameter.name for parameter in _CALL)
"""Parameters that are arguments of a pipeline of the same name."""

IMAGES = tuple(parameter.name for parameter in (*_CONDITION_IMAGES, *_EDIT_IMAGES))
"""Parameters that are images."""

PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {one.name: one for one in (*_OPENAI, *_CALL, *_OWN, *_CONDITION_IMAGES, *_EDIT_IMAGES)}
)

_EDITS = frozenset(PARAMETERS)
_GENERATIONS = _EDITS - {one.name for one in (*_EDITING, *_EDIT_IMAGES)} - {"denoising_start"}
_NO_PROMPT = {one.name for one in _PROMPTS} | {"prompt"}
_VARIATIONS = (_EDITS - _NO_PROMPT - {one.name for one in _EDIT_IMAGES}) | {"image", "mask", "mask_image"}

ENDPOINTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"generations": _GENERATIONS, "edits": _EDITS, "variations": _VARIATIONS}
)
"""Endpoint below /v1/images/ to its parameters, without `NEUTRAL`."""

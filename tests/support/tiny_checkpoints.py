"""Writes tiny random checkpoints of some 8 MB, one description a variant, with the tokenizer of models/emoji."""

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from t5_tokenizer import write_sentencepiece
from tiny_networks import (
    depth_estimator,
    depth_estimator_vit,
    depth_processor,
    feature_extractor,
    image_encoder,
    safety_checker,
    text_encoder,
    text_encoder_2,
    text_encoder_projected,
    text_encoder_t5,
    transformer_3,
    unet,
    unet_edited,
    unet_least,
    unet_small,
    unet_xl,
    unet_xl_three,
    vae,
    vae_3,
    vae_small,
    vae_tiny,
    vae_xl,
)

from diffoundry.exporter.checkpoints.tokenizer_files import write_tokenizer

EMOJI = Path(__file__).parents[2] / "models/emoji"

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One checkpoint.

    Attributes:
        pipeline: diffusers' class.
        seed: Of the weights.
        scheduler: Class and options.
        parts: Folder to what makes the network, in this order.
        tokenizers: Folders of CLIP tokenizers.
        t5: Folder of a T5 tokenizer, or None; it is a sentencepiece model alone if `sentencepiece`.
        sentencepiece: True if the T5 tokenizer is not converted yet.
        index: What else model_index.json says.
    """

    pipeline: str
    seed: int
    scheduler: tuple[str, Mapping[str, Any]]
    parts: Mapping[str, Callable[[], Any]]
    tokenizers: tuple[str, ...] = ("tokenizer",)
    t5: str | None = None
    sentencepiece: bool = False
    index: Mapping[str, Any] = field(default_factory=dict)


def write_tiny_checkpoint(folder: Path, name: str) -> None:
    """Write the variant `name` of `VARIANTS`."""
    import diffusers

    variant, models = VARIANTS[name], _make_parts(name)
    kind, options = variant.scheduler
    models["scheduler"] = getattr(diffusers, kind)(**options)
    index = {"_class_name": variant.pipeline, "_diffusers_version": diffusers.__version__, **variant.index}
    for part, model in models.items():
        model.save_pretrained(folder / part)
        index[part] = [_library(model), type(model).__name__]
    for place in variant.tokenizers:
        shutil.copytree(EMOJI / "tokenizer", folder / place)
        index[place] = ["transformers", "CLIPTokenizer"]
    if "tokenizer_2" in variant.tokenizers:  # padded with another token, as Stable Diffusion XL's
        path = folder / "tokenizer_2/tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "!"}))
    if variant.t5 is not None:
        index[variant.t5] = ["transformers", "T5TokenizerFast"]
        _write_t5(folder / variant.t5, sentencepiece=variant.sentencepiece)
    (folder / "model_index.json").write_text(json.dumps(dict(sorted(index.items())), indent=2))


def _make_parts(name: str) -> dict[str, Any]:
    import torch

    variant = VARIANTS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(variant.seed)
        return {part: make() for part, make in variant.parts.items()}


def _parts_of(name: str, *parts: str) -> dict[str, Callable[[], Any]]:
    """Parts with the weights that they have in another variant, so that their graphs are traced once."""
    return {part: lambda part=part: _make_parts(name)[part] for part in parts}


def _write_t5(folder: Path, *, sentencepiece: bool) -> None:
    write_sentencepiece(folder)
    if not sentencepiece:
        write_tokenizer(folder, "T5TokenizerFast", folder)
        (folder / "spiece.model").unlink()


def write_tiny_controlnet(folder: Path, base: str, name: str) -> None:
    """Write a ControlNet for the variant `base` of `VARIANTS`.

    All its weights are random, those included that diffusers sets to zero, with which it would add nothing.

    Args:
        folder: Where.
        base: Of whose UNet's build it is.
        name: Another name gives other weights; "pooled" is one that knows no places and takes blue before red.
    """
    import diffusers
    import torch

    if "transformer" in VARIANTS[base].parts:
        write_tiny_sd3_controlnet(folder, base, name)
        return
    odd = {"controlnet_conditioning_channel_order": "bgr"} if name == "pooled" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        unet = VARIANTS[base].parts["unet"]()
        made = diffusers.ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(8, 12, 16, 24), load_weights_from_unet=False, **odd
        )
        if unet.config.in_channels != 4:  # ControlNets see latents alone
            made = diffusers.ControlNetModel.from_config({**made.config, "in_channels": 4})
        if name == "pooled":
            made.register_to_config(global_pool_conditions=True)
        for parameter in made.parameters():
            if not parameter.any():
                parameter.data = 0.1 * torch.randn(parameter.shape)
    made.save_pretrained(folder)


def write_tiny_sd3_controlnet(folder: Path, base: str, name: str) -> None:
    """Write an `SD3ControlNetModel` for the variant `base` of `VARIANTS`; all its weights are random.

    Args:
        folder: Where.
        base: Whose transformer it fits.
        name: Another name gives other weights. "stability" has single attention, no text and no positions of its own;
            "masked" takes a mask; "pooled" takes the pooled prompt.
    """
    import diffusers
    import torch

    kinds = {
        "stability": {"joint_attention_dim": None, "use_pos_embed": False, "force_zeros_for_pooled_projection": False},
        "masked": {"extra_conditioning_channels": 1, "force_zeros_for_pooled_projection": False},
        "pooled": {"force_zeros_for_pooled_projection": False, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        config = {key: value for key, value in VARIANTS[base].parts["transformer"]().config.items() if key[0] != "_"}
        usual = {**config, "in_channels": 16, "num_layers": 2, "dual_attention_layers": (), "qk_norm": None}
        made = diffusers.SD3ControlNetModel(**{**usual, **kinds.get(name, {})})
        for parameter in made.parameters():
            if not parameter.any():
                parameter.data = 0.1 * torch.randn(parameter.shape)
    made.save_pretrained(folder)


def write_tiny_t2i_adapter(folder: Path, base: str, kind: str) -> None:
    """Write a T2I-Adapter for the variant `base` of `VARIANTS`.

    Args:
        folder: Where.
        base: Whose UNet and VAE it fits.
        kind: "full" and "grey" for Stable Diffusion, the second of which takes images of one channel; "light", the
            small build; "xl" for Stable Diffusion XL.
    """
    import diffusers
    import torch

    parts = VARIANTS[base].parts
    widths, factor = parts["unet"]().config.block_out_channels, 2 ** (len(parts["vae"]().config.block_out_channels) - 1)
    options = {
        "full": {"channels": widths},
        "grey": {"channels": widths, "in_channels": 1},
        "light": {"channels": widths[:-1], "adapter_type": "light_adapter"},
        "xl": {"channels": (*widths, widths[-1]), "adapter_type": "full_adapter_xl"},
    }[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(kind.encode()))
        made = diffusers.T2IAdapter(
            **options, num_res_blocks=1, downscale_factor=factor * 2 if kind == "xl" else factor
        )
        for parameter in made.parameters():
            parameter.data = 0.08 * torch.randn(parameter.shape)
    made.save_pretrained(folder)


def _library(model: Any) -> str:
    """As diffusers names it: of a network that lies in a pipeline's folder, that folder."""
    parts = type(model).__module__.split(".")
    return parts[-2] if parts[1] == "pipelines" else parts[0]


_FIRST = {
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
}
_XL = {"feature_extractor": [None, None], "image_encoder": [None, None], "force_zeros_for_empty_prompt": True}

_PNDM = ("PNDMScheduler", {**SCHEDULE, "set_alpha_to_one": False, "skip_prk_steps": True})
_DDIM = ("DDIMScheduler", {**SCHEDULE, "set_alpha_to_one": False, "clip_sample": False})
_LCM = ("LCMScheduler", {**SCHEDULE, "original_inference_steps": 50, "clip_sample": False})
_EULER = ("EulerDiscreteScheduler", {**SCHEDULE, "timestep_spacing": "leading"})


def _sd(pipeline: str, seed: int, scheduler: tuple[str, Mapping[str, Any]] = _PNDM, **options: Any) -> Variant:
    parts = {"text_encoder": text_encoder, "unet": lambda: unet(**options), "vae": vae}
    return Variant(pipeline=pipeline, seed=seed, scheduler=scheduler, parts=parts, index=_FIRST)


def _sharing(variant: Variant, name: str, *parts: str) -> Variant:
    return replace(variant, parts={**variant.parts, **_parts_of(name, *parts)})


def _with_vae(variant: Variant, make_vae: Callable[[], Any]) -> Variant:
    return replace(variant, parts={**variant.parts, "vae": make_vae})


def _checked(variant: Variant) -> Variant:
    """With a safety checker; the other networks have the same weights."""
    parts = {**variant.parts, "safety_checker": safety_checker, "feature_extractor": feature_extractor}
    return replace(variant, parts=parts, index={**variant.index, "requires_safety_checker": True})


def _xl(pipeline: str, seed: int, **options: Any) -> Variant:
    return Variant(
        pipeline=pipeline,
        seed=seed,
        scheduler=_EULER,
        parts={
            "text_encoder": lambda: text_encoder(projection_dim=32),
            "text_encoder_2": text_encoder_2,
            "unet": lambda: unet_xl(**options),
            "vae": vae_xl,
        },
        tokenizers=("tokenizer", "tokenizer_2"),
        index=_XL,
    )


_FLOW = ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
_DYNAMIC = (_FLOW[0], {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 64})


def _sd3(seed: int, scheduler: tuple[str, Mapping[str, Any]] = _FLOW, **options: Any) -> Variant:
    return Variant(
        pipeline="StableDiffusion3Pipeline",
        seed=seed,
        scheduler=scheduler,
        parts={
            "text_encoder": text_encoder_projected,
            "text_encoder_2": text_encoder_2,
            "text_encoder_3": text_encoder_t5,
            "transformer": lambda: transformer_3(**options),
            "vae": vae_3,
        },
        tokenizers=("tokenizer", "tokenizer_2"),
        t5="tokenizer_3",
        index={"feature_extractor": [None, None], "image_encoder": [None, None]},
    )


def _without_t5(variant: Variant) -> Variant:
    parts = _parts_of("sd3", *(part for part in variant.parts if part != "text_encoder_3"))
    lacking = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    return replace(variant, parts=parts, t5=None, index={**variant.index, **lacking})


def _estimating(make_estimator: Callable[[], Any]) -> Variant:
    """Depth to image with a depth estimator; the other networks have the weights of "depth"."""
    return Variant(
        pipeline="StableDiffusionDepth2ImgPipeline",
        seed=12,
        scheduler=_PNDM,
        parts={
            **_parts_of("depth", "text_encoder", "vae", "unet"),
            "depth_estimator": make_estimator,
            "feature_extractor": depth_processor,
        },
    )


VARIANTS: dict[str, Variant] = {
    "sd1": _sd("StableDiffusionPipeline", 3),
    # v-prediction, heads per level, linear projections, GELU
    "sd2": Variant(
        pipeline="StableDiffusionPipeline",
        seed=4,
        scheduler=(_DDIM[0], {**_DDIM[1], "prediction_type": "v_prediction"}),
        parts={
            "text_encoder": lambda: text_encoder(hidden_act="gelu"),
            "unet": lambda: unet(attention_head_dim=[2, 4, 4], use_linear_projection=True, upcast_attention=True),
            **_parts_of("sd1", "vae"),
        },
        index=_FIRST,
    ),
    # The smallest that the calibration of layers takes time for
    "sd1-small": Variant(
        pipeline="StableDiffusionPipeline",
        seed=3,
        scheduler=_PNDM,
        parts={"text_encoder": lambda: text_encoder(num_hidden_layers=1), "unet": unet_small, "vae": vae_small},
        index=_FIRST,
    ),
    # For exports of which only the course matters
    "sd1-least": Variant(
        pipeline="StableDiffusionPipeline",
        seed=3,
        scheduler=_PNDM,
        parts={"text_encoder": lambda: text_encoder(num_hidden_layers=1), "unet": unet_least, "vae": vae_tiny},
        index=_FIRST,
    ),
    "sd1-checked": _checked(_sd("StableDiffusionPipeline", 3)),
    "variation": Variant(
        pipeline="StableDiffusionImageVariationPipeline",
        seed=17,  # diffusers flags some images and some not
        scheduler=_PNDM,
        parts={
            "image_encoder": image_encoder,
            "unet": unet,
            "vae": vae,
            "safety_checker": safety_checker,
            "feature_extractor": feature_extractor,
        },
        tokenizers=(),
        index={"requires_safety_checker": True},
    ),
    "sd1-tiny": _with_vae(_sd("StableDiffusionPipeline", 3), vae_tiny),
    "lcm": _sharing(
        _sd("LatentConsistencyModelPipeline", 18, _LCM, time_cond_proj_dim=16), "sd1", "text_encoder", "vae"
    ),
    "inpaint": _sharing(_sd("StableDiffusionInpaintPipeline", 5, _DDIM, in_channels=9), "sd1", "text_encoder", "vae"),
    "depth": Variant(
        pipeline="StableDiffusionDepth2ImgPipeline",
        seed=12,
        scheduler=_PNDM,
        parts={**_parts_of("sd1-small", "text_encoder", "vae"), "unet": lambda: unet_small(in_channels=5)},
        index={"depth_estimator": [None, None], "feature_extractor": [None, None]},
    ),
    "depth-estimated": _estimating(depth_estimator),
    "depth-vit": _estimating(depth_estimator_vit),
    "instruct": _sharing(_sd("StableDiffusionInstructPix2PixPipeline", 6, in_channels=8), "sd1", "text_encoder", "vae"),
    "sd1-edited": Variant(
        pipeline="StableDiffusionPipeline",
        seed=22,
        scheduler=_DDIM,
        parts={"unet": unet_edited, **_parts_of("sd1", "text_encoder", "vae")},
        index=_FIRST,
    ),
    "xl": _xl("StableDiffusionXLPipeline", 7),
    "xl-three": replace(
        _xl("StableDiffusionXLPipeline", 11),
        parts={**_parts_of("xl", "text_encoder", "text_encoder_2", "vae"), "unet": unet_xl_three},
    ),
    # distilled: the guidance scale is an input; the VAE has no statistics
    "xl-distilled": _sharing(
        _sharing(_xl("StableDiffusionXLPipeline", 8, time_cond_proj_dim=16), "xl", "text_encoder", "text_encoder_2"),
        "sd1",
        "vae",
    ),
    "xl-inpaint": _sharing(
        _xl("StableDiffusionXLInpaintPipeline", 9, in_channels=9), "xl", "text_encoder", "text_encoder_2", "vae"
    ),
    "xl-instruct": _sharing(
        _xl("StableDiffusionXLInstructPix2PixPipeline", 21, in_channels=8),
        "xl",
        "text_encoder",
        "text_encoder_2",
        "vae",
    ),
    "xl-refiner": Variant(
        pipeline="StableDiffusionXLImg2ImgPipeline",
        seed=10,
        scheduler=_EULER,
        parts={"unet": lambda: unet_xl(width=48, numbers=5), **_parts_of("xl", "text_encoder_2", "vae")},
        tokenizers=("tokenizer_2",),
        index={
            **_XL,
            "force_zeros_for_empty_prompt": False,
            "requires_aesthetics_score": True,
            "text_encoder": [None, None],
            "tokenizer": [None, None],
        },
    ),
    "sd3": _sd3(20),
    # As 3.5: normalized queries and keys, a second attention in some layers. The T5 tokenizer is not converted yet.
    "sd3.5": _sharing(
        replace(_sd3(21, _DYNAMIC, qk_norm="rms_norm", dual_attention_layers=(0,)), sentencepiece=True),
        "sd3",
        *("text_encoder", "text_encoder_2", "text_encoder_3", "vae"),
    ),
    "sd3-without-t5": _without_t5(_sd3(20)),
    "sd3-inpaint": _sharing(
        replace(_sd3(23, in_channels=33), pipeline="StableDiffusion3InpaintPipeline"),
        "sd3",
        *("text_encoder", "text_encoder_2", "text_encoder_3", "vae"),
    ),
}

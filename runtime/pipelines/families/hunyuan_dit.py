"""Hunyuan-DiT: hidden states of BERT and mT5 with masks of their padding, and sizes as conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import check_embeddings, check_type, is_whole
from diffoundry.runtime.checks.token_masks import check_token_mask
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.hunyuan_dit_2d import BERT_TOKENS, SIZE, T5_TOKENS, HunyuanDiT2DModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.t5_encoder import T5EncoderModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.guidance import Condition, Guidance
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.pipelines.perturbed_guidance import choose_perturbed
from diffoundry.runtime.pipelines.systems.perturbed_attention import block_layers, check_perturbed

__all__ = ["HunyuanDiT", "HunyuanDiTPAG", "HunyuanDiTPAGPromptInputs", "HunyuanDiTPromptInputs"]

_SIZES = ("original_size", "target_size", "crops_coords_top_left")

_SHAPES = (
    (1.0, ((1024, 1024), (1280, 1280))),
    (4 / 3, ((1024, 768), (1152, 864), (1280, 960))),
    (3 / 4, ((768, 1024), (864, 1152), (960, 1280))),
    (16 / 9, ((1280, 768),)),
    (9 / 16, ((768, 1280),)),
)
"""Ratio of width to height, and the sizes (width, height) of the training. diffusers: `STANDARD_SHAPE`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HunyuanDiTPromptInputs(PromptInputs):
    """The texts and sizes of one call.

    Attributes:
        prompt_attention_mask: (B, 77), 1 for a token of `prompt_embeds` and 0 for padding; needed with them alone.
        negative_prompt_attention_mask: The same of `negative_prompt_embeds`.
        prompt_embeds_2: float32 (B, 256, E), hidden states of mT5 that belong to `prompt_embeds`.
        negative_prompt_embeds_2: The same of `negative_prompt_embeds`.
        prompt_attention_mask_2: (B, 256), the mask of `prompt_embeds_2`.
        negative_prompt_attention_mask_2: The same of `negative_prompt_embeds_2`.
        original_size: Height and width of the image before it was scaled to the size generated.
        target_size: The same afterwards; None takes the size generated.
        crops_coords_top_left: (top, left) of the part that was cut out; (0, 0) centres things.
        use_resolution_binning: True generates in the size of the training with the closest ratio and area, False in the
            size that was asked for.
    """

    prompt_attention_mask: Any = None
    negative_prompt_attention_mask: Any = None
    prompt_embeds_2: FloatArray | None = None
    negative_prompt_embeds_2: FloatArray | None = None
    prompt_attention_mask_2: Any = None
    negative_prompt_attention_mask_2: Any = None
    original_size: tuple[int, int] = (1024, 1024)
    target_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = (0, 0)
    use_resolution_binning: bool = True

    def check(self) -> None:
        """See `PromptInputs.check`."""
        PromptInputs.check(self)
        for prefix in ("", "negative_"):
            first, second = (f"{prefix}prompt_embeds{ending}" for ending in ("", "_2"))
            check_embeddings(second, getattr(self, second), self.count, 3)
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise InputError(f"{first} and {second}: got one of them, expected both")
            for ending in ("", "_2"):
                name, embeds = (f"{prefix}prompt_{kind}{ending}" for kind in ("attention_mask", "embeds"))
                check_token_mask(name, getattr(self, name), embeds, getattr(self, embeds))
        for name in _SIZES:
            value = getattr(self, name)
            pair = isinstance(value, list | tuple) and len(value) == 2 and all(is_whole(one) for one in value)
            if not pair and not (value is None and name == "target_size"):
                raise InputError(f"{name}: got {value!r}, expected two whole numbers, such as (1024, 768)")
        check_type("use_resolution_binning", self.use_resolution_binning, bool, "True or False")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HunyuanDiTPAGPromptInputs(HunyuanDiTPromptInputs):
    """The same with perturbed attention.

    Attributes:
        pag_scale: Factor of the guidance away from perturbed attention; 0 runs without it.
        pag_adaptive_scale: Decrease of this factor for each timestep below 1000.
        pag_applied_layers: Names of the layers that are perturbed, or parts of them: "blocks.14". A name also means
            those that begin with it, so that "blocks.1" includes layers 10 to 19.
    """

    pag_scale: float = 3.0
    pag_adaptive_scale: float = 0.0
    pag_applied_layers: str | Sequence[str] = "blocks.1"

    def check(self) -> None:
        """See `PromptInputs.check`."""
        HunyuanDiTPromptInputs.check(self)
        check_perturbed(self)


class HunyuanDiT(Family):
    """A bilingual BERT and mT5, and a transformer with long skip connections.

    Li et al. 2024, https://arxiv.org/abs/2405.08748. diffusers: `HunyuanDiTPipeline`,
    `HunyuanDiTControlNetPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = HunyuanDiTPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 50, "guidance_scale": 5.0}
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = defaults
    tasks: ClassVar[tuple[str, ...] | None] = ("text_to_image",)
    returns_flags: ClassVar[bool] = True
    callback_tensors: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "encoder_hidden_states",
        "prompt_embeds_2": "encoder_hidden_states_t5",
    }

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: HunyuanDiT2DModel = HunyuanDiT2DModel(session)
        # BERT is called like T5.
        self._bert, self._t5 = (T5EncoderModel(session, name) for name in ("text_encoder", "text_encoder_2"))
        self.text_encoders = (self._bert, self._t5)

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:  # noqa: ARG002
        """See `Family`: a measurement generates in the size that it names."""
        return {"use_resolution_binning": False}

    def choose_size(self, size: tuple[int, int], prompts: HunyuanDiTPromptInputs) -> tuple[int, int]:
        """See `Family`: the closest of the training, unless the call turns that off."""
        known = any(size in shapes for _, shapes in _SHAPES)
        return size if known or not prompts.use_resolution_binning else _closest_size(*size)

    def encode(self, inputs: HunyuanDiTPromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `HunyuanDiTPipeline.encode_prompt`."""
        truncated = ("",) * inputs.count
        prompts = {name: getattr(inputs, f"prompt_{name}") for name in _ENCODED}
        if inputs.prompt is not None:
            prompts, truncated = self._encode(inputs.texts())
        negative = {name: getattr(inputs, f"negative_prompt_{name}") for name in _ENCODED}
        if options.guided and inputs.negative_prompt_embeds is None:
            negative, _ = self._encode(inputs.negative_texts(guided=True))
        sizes = (*inputs.original_size, *(inputs.target_size or (options.height, options.width)))
        ids = (*sizes, *inputs.crops_coords_top_left)
        return Condition(
            conditional=self._feeds(prompts, options.images_per_prompt, ids),
            unconditional=self._feeds(negative, options.images_per_prompt, ids) if options.guided else None,
            truncated=truncated,
        )

    def _encode(self, texts: list[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return the arrays of `_ENCODED`, and the parts that were cut off by both text encoders."""
        found, cut = {}, []
        for encoder, tokens, ending in ((self._bert, BERT_TOKENS, ""), (self._t5, T5_TOKENS, "_2")):
            found[f"embeds{ending}"], truncated = encoder.encode(texts, tokens)
            found[f"attention_mask{ending}"] = encoder.tokenizer(texts, max_length=tokens).attention_mask
            cut.append(truncated)
        return found, cut[-1]

    def _feeds(self, arrays: Mapping[str, Any], times: int, sizes: tuple[int, ...]) -> Feeds:
        """Return inputs of the denoiser. Masks of several images take turns while states do not, as in diffusers."""
        feeds: dict[str, FloatArray] = {}
        for name, (argument, masks) in _ENCODED.items():
            array = np.asarray(arrays[name], np.float32)
            feeds[argument] = np.tile(array, (times, 1)) if masks else np.repeat(array, times, axis=0)
        if self.denoiser.takes_size:
            feeds[SIZE] = np.tile(np.array([sizes], np.float32), (len(feeds["encoder_hidden_states"]), 1))
        return feeds


class HunyuanDiTPAG(HunyuanDiT):
    """diffusers: `HunyuanDiTPAGPipeline`. Ahn et al. 2024, https://arxiv.org/abs/2403.17377."""

    Inputs: ClassVar[type[PromptInputs]] = HunyuanDiTPAGPromptInputs
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        super().__init__(session)
        self.choose_guidance = _choose_perturbed


def _choose_perturbed(
    inputs: CommonInputs, prompts: HunyuanDiTPAGPromptInputs, denoiser: HunyuanDiT2DModel
) -> Guidance:
    return choose_perturbed(inputs, prompts, denoiser, block_layers(denoiser.layers, "blocks"))


_ENCODED = {
    "embeds": ("encoder_hidden_states", False),
    "attention_mask": ("text_embedding_mask", True),
    "embeds_2": ("encoder_hidden_states_t5", False),
    "attention_mask_2": ("text_embedding_mask_t5", True),
}
"""Ending of an argument to the input of the denoiser, and True for masks."""


def _closest_size(height: int, width: int) -> tuple[int, int]:
    """Return the size of the training with the closest ratio, and of these the closest area.

    diffusers: `map_to_standard_shapes`.
    """
    _, shapes = min(_SHAPES, key=lambda row: abs(row[0] - width / height))
    chosen = min(shapes, key=lambda shape: abs(shape[0] * shape[1] - width * height))
    return chosen[1], chosen[0]

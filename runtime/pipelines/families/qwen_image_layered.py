"""Qwen-Image-Layered: a transformer over the tokens of several layers, which sees the image that they make up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffoundry.runtime.checks.arguments import check_type
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.causal_lm import CausalLanguageModel
from diffoundry.runtime.models.qwen_image_transformer_2d import (
    QwenImageLayeredTransformer2DModel,
    QwenImageTransformer2DModel,
)
from diffoundry.runtime.pipelines.families.qwen_image import (
    DROPPED,
    TOKENS,
    QwenImage,
    QwenImagePromptInputs,
    choose_guidance,
)
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Guidance
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs

__all__ = ["QwenImageLayered", "QwenImageLayeredPromptInputs"]

_BASE_TOKENS = 256
"""Tokens of an image for which timesteps are not shifted. diffusers: `base_seqlen`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QwenImageLayeredPromptInputs(QwenImagePromptInputs):
    """The texts of one call: they describe the whole image, hidden parts included.

    Attributes:
        cfg_normalize: True keeps the length of every token under guidance, as the other pipelines of Qwen-Image do.
    """

    cfg_normalize: bool = False

    def check(self) -> None:
        """See `PromptInputs.check`; an image without a description is refused, which diffusers captions."""
        if self.prompt_embeds is None and self.prompt in (None, "", " "):
            raise InputError(
                f"prompt: got {'none' if self.prompt is None else repr(self.prompt)}, expected a description of the "
                f"image; diffusers has the language model write one, which is not part of a bundle"
            )
        QwenImagePromptInputs.check(self)
        check_type("cfg_normalize", self.cfg_normalize, bool, "True or False")


def _choose_guidance(
    inputs: CommonInputs, prompts: QwenImageLayeredPromptInputs, denoiser: QwenImageTransformer2DModel
) -> Guidance:
    """Guide by a negative prompt. See `Family.choose_guidance`."""
    if prompts.guided and not prompts.cfg_normalize:
        return ClassifierFreeGuidance(scale=prompts.true_cfg_scale)
    return choose_guidance(inputs, prompts, denoiser)


class QwenImageLayered(QwenImage):
    """Qwen 2.5 VL, and a transformer over tokens of all layers of an image.

    Yin et al. 2025, https://arxiv.org/abs/2512.15603. diffusers: `QwenImageLayeredPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = QwenImageLayeredPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"layer_decomposition": {"num_inference_steps": 50}}
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    tasks: ClassVar[tuple[str, ...] | None] = ("layer_decomposition",)
    transparent: ClassVar[bool] = True

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: QwenImageTransformer2DModel = QwenImageLayeredTransformer2DModel(session)
        self._language_model = CausalLanguageModel(session, hidden_states=(-1,), tokens=DROPPED + TOKENS)
        self.text_encoders = (self._language_model,)
        self.choose_guidance = _choose_guidance
        self.compute_mu = lambda tokens, _steps: float((tokens / _BASE_TOKENS) ** 0.5)

"""Image encoder of Qwen 2.5 VL: patches of an image, in windows, to tokens of its language model.

Qwen team 2025, https://arxiv.org/abs/2502.13923.
"""

from diffoundry.exporter.component import Component, ComponentKind, Configs
from diffoundry.exporter.components.causal_lm_text import QWEN_2_5_VL
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.qwen_vision import read_vision_layout
from diffoundry.runtime.models.roles import IMAGE_ENCODER

__all__ = ["qwen_image_encoder"]

_NAME, _SOURCE = "image_encoder", "text_encoder"


def qwen_image_encoder(windows: int) -> ComponentKind:
    """Declare the image encoder, a part of the language model's checkpoint.

    Args:
        windows: Windows of an image by default.
    """
    return ComponentKind(
        name=_NAME,
        source=_SOURCE,
        classes=tuple(f"transformers:{one}" for one in QWEN_2_5_VL),
        describe=lambda configs: _describe(configs, windows),
    )


def _describe(configs: Configs, windows: int) -> Component:
    layout = read_vision_layout(configs[_SOURCE], f"{_SOURCE}/config.json")
    row = ("windows", layout.window_patches)
    angles = (*row, layout.head // 2)
    tokens = layout.window_patches // layout.merge**2
    return Component(
        name=_NAME,
        role=IMAGE_ENCODER,
        network=str(configs[_SOURCE]["_class_name"]),
        source=_SOURCE,
        inputs=(
            TensorSpec(name="pixel_values", dtype="float32", shape=(*row, layout.patch_values)),
            TensorSpec(name="window_mask", dtype="float32", shape=row),
            TensorSpec(name="rotary_cos", dtype="float32", shape=angles),
            TensorSpec(name="rotary_sin", dtype="float32", shape=angles),
        ),
        outputs=(TensorSpec(name="image_embeds", dtype="float32", shape=("windows", tokens, layout.out_width)),),
        example={"windows": 3},
        usual={"windows": windows},
        wrapper="diffoundry.exporter.components.qwen_vision_module:QwenVisionModule",
    )

"""Image encoder of Qwen 3 VL: patches of an image to tokens of its language model, and to features for its layers.

Qwen team 2025, https://arxiv.org/abs/2511.21631.
"""

from diffoundry.exporter.component import Component, ComponentKind, Configs
from diffoundry.exporter.components.causal_lm_text import QWEN_3_VL
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.qwen3_vision import CORNERS, deepstack_name, read_vision_layout
from diffoundry.runtime.models.roles import IMAGE_ENCODER

__all__ = ["qwen3_image_encoder"]

_NAME, _SOURCE = "image_encoder", "text_encoder"


def qwen3_image_encoder(tokens: int) -> ComponentKind:
    """Declare the image encoder, a part of the language model's checkpoint.

    Args:
        tokens: Tokens of an image by default.
    """
    return ComponentKind(
        name=_NAME,
        source=_SOURCE,
        classes=tuple(f"transformers:{one}" for one in QWEN_3_VL),
        describe=lambda configs: _describe(configs, tokens),
    )


def _describe(configs: Configs, tokens: int) -> Component:
    layout = read_vision_layout(configs[_SOURCE], f"{_SOURCE}/config.json")
    row = ("tokens", layout.merge**2)
    shapes = {
        "pixel_values": (*row, layout.patch_values),
        "position_ids": (*row, CORNERS),
        "position_weights": (*row, CORNERS),
        "rotary_cos": (*row, layout.head // 2),
        "rotary_sin": (*row, layout.head // 2),
    }
    names = "image_embeds", *map(deepstack_name, range(layout.deep))
    return Component(
        name=_NAME,
        role=IMAGE_ENCODER,
        network=str(configs[_SOURCE]["_class_name"]),
        source=_SOURCE,
        inputs=tuple(
            TensorSpec(name=name, dtype="int32" if name == "position_ids" else "float32", shape=shape)
            for name, shape in shapes.items()
        ),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=("tokens", layout.out_width)) for name in names),
        example={"tokens": 12},
        usual={"tokens": tokens},
        wrapper="diffoundry.exporter.components.qwen3_vision_module:Qwen3VisionModule",
    )

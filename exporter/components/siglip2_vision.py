"""SigLIP 2's image encoder: patches of an image of any ratio to their states.

Tschannen et al. 2025, https://arxiv.org/abs/2502.14786. transformers: `Siglip2VisionModel`.
"""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import IMAGE_ENCODER
from diffoundry.runtime.models.siglip2_vision import position_side

__all__ = ["siglip2_image_encoder"]

_CLASS = "Siglip2VisionModel"


def siglip2_image_encoder(name: str) -> ComponentKind:
    """Declare the image encoder of this folder; that of its processor ends in "_processor"."""
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"transformers:{_CLASS}",),
        describe=partial(_describe, name=name),
        folder=f"{name}_processor",
    )


def _describe(configs: Configs, *, name: str) -> Component:
    side = position_side(configs[name], f"{name}/config.json")
    values = read_integer(configs, name, "num_channels", 3) * read_integer(configs, name, "patch_size", 16) ** 2
    row = ("batch", "patches")
    return Component(
        name=name,
        role=IMAGE_ENCODER,
        network=_CLASS,
        source=name,
        inputs=(
            TensorSpec(name="pixel_values", dtype="float32", shape=(*row, values)),
            TensorSpec(name="position_weights", dtype="float32", shape=(*row, side**2)),
        ),
        outputs=(
            TensorSpec(
                name="last_hidden_state", dtype="float32", shape=(*row, read_integer(configs, name, "hidden_size", 768))
            ),
        ),
        example={"batch": 2, "patches": 6},
        usual={"patches": side**2},
        wrapper="diffoundry.exporter.components.siglip2_vision_module:Siglip2VisionModule",
    )

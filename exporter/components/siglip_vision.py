"""SigLIP's image encoder: prepared pixels to the states of an image's patches.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343. transformers: `SiglipVisionModel`.
"""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.clip_vision import pixels_input
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import IMAGE_ENCODER

__all__ = ["siglip_image_encoder", "siglip_tokens"]

_CLASS = "SiglipVisionModel"


def siglip_image_encoder(name: str = "image_encoder") -> ComponentKind:
    """Declare the image encoder of this folder."""
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"transformers:{_CLASS}",),
        describe=partial(_describe, name=name),
        folder="feature_extractor",
    )


def siglip_tokens(configs: Configs, source: str = "image_encoder") -> int:
    """Return the tokens of an image: its patches."""
    side = read_integer(configs, source, "image_size", 224)
    return (side // read_integer(configs, source, "patch_size", 16)) ** 2


def _describe(configs: Configs, *, name: str) -> Component:
    shape = ("batch", siglip_tokens(configs, name), read_integer(configs, name, "hidden_size", 768))
    return Component(
        name=name,
        role=IMAGE_ENCODER,
        network=_CLASS,
        source=name,
        inputs=(pixels_input("pixel_values", configs[name], name),),
        outputs=(TensorSpec(name="last_hidden_state", dtype="float32", shape=shape),),
        example={"batch": 2},
    )

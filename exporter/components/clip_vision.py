"""CLIP's image encoder: prepared pixels to one vector per image."""

from diffoundry.exporter.component import Component, ComponentKind, Config, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import IMAGE_ENCODER as ENCODER_ROLE

__all__ = ["IMAGE_ENCODER", "pixels_input"]


def pixels_input(name: str, config: Config, source: str) -> TensorSpec:
    """Describe the input of a CLIP image encoder: pixels of the trained size, float32, normalized.

    Args:
        name: Name of the input.
        config: Config of transformers' `CLIPVisionConfig`; missing fields have its defaults.
        source: Folder of the network, for messages.
    """
    configs = {source: config}
    side, channels = read_integer(configs, source, "image_size", 224), read_integer(configs, source, "num_channels", 3)
    return TensorSpec(name=name, dtype="float32", shape=("batch", channels, side, side))


def _describe(configs: Configs) -> Component:
    width = read_integer(configs, "image_encoder", "projection_dim", 512)
    return Component(
        name="image_encoder",
        role=ENCODER_ROLE,
        network="CLIPVisionModelWithProjection",
        source="image_encoder",
        inputs=(pixels_input("pixel_values", configs["image_encoder"], "image_encoder"),),
        outputs=(TensorSpec(name="image_embeds", dtype="float32", shape=("batch", width)),),
        example={"batch": 2},
    )


IMAGE_ENCODER = ComponentKind(
    name="image_encoder",
    source="image_encoder",
    classes=("transformers:CLIPVisionModelWithProjection",),
    describe=_describe,
    folder="feature_extractor",
)

"""CLIP's image encoder: prepared pixels to one vector per image."""

from diffoundry.exporter.component import Component, ComponentKind, Config, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import IMAGE_ENCODER as ENCODER_ROLE

__all__ = ["IMAGE_ENCODER", "clip_image_encoder", "pixels_input"]

_CLASS = "CLIPVisionModelWithProjection"
_SOURCE = "image_encoder"


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


def clip_image_encoder(*, folder: str = "feature_extractor") -> ComponentKind:
    """Declare the image encoder that conditions a denoiser.

    Args:
        folder: Folder of the checkpoint with the config of the preparation of images.
    """
    return ComponentKind(
        name=_SOURCE, source=_SOURCE, classes=(f"transformers:{_CLASS}",), describe=_describe, folder=folder
    )


def _describe(configs: Configs) -> Component:
    width = read_integer(configs, _SOURCE, "projection_dim", 512)
    return Component(
        name=_SOURCE,
        role=ENCODER_ROLE,
        network=_CLASS,
        source=_SOURCE,
        inputs=(pixels_input("pixel_values", configs[_SOURCE], _SOURCE),),
        outputs=(TensorSpec(name="image_embeds", dtype="float32", shape=("batch", width)),),
        example={"batch": 2},
    )


IMAGE_ENCODER = clip_image_encoder()

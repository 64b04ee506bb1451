"""CLIP's image encoder: prepared pixels to one vector per image, or to the states of its patches."""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Config, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import IMAGE_ENCODER as ENCODER_ROLE

__all__ = ["IMAGE_ENCODER", "clip_image_encoder", "clip_tokens", "pixels_input"]

_PROJECTED, _PLAIN = "CLIPVisionModelWithProjection", "CLIPVisionModel"
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


def clip_tokens(configs: Configs) -> int:
    """Return the tokens of an image in the checkpoint's image encoder: its patches and the class token."""
    side = read_integer(configs, _SOURCE, "image_size", 224)
    return (side // read_integer(configs, _SOURCE, "patch_size", 32)) ** 2 + 1


def clip_image_encoder(*, folder: str = "feature_extractor", projected: bool = True) -> ComponentKind:
    """Declare the image encoder that conditions a denoiser.

    Args:
        folder: Folder of the checkpoint with the config of the preparation of images.
        projected: True for the projected vector of an image, False for the last states of its tokens.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=(f"transformers:{_PROJECTED if projected else _PLAIN}",),
        describe=partial(_describe, projected=projected),
        folder=folder,
    )


def _describe(configs: Configs, *, projected: bool) -> Component:
    if projected:
        width = read_integer(configs, _SOURCE, "projection_dim", 512)
        output = TensorSpec(name="image_embeds", dtype="float32", shape=("batch", width))
    else:
        width = read_integer(configs, _SOURCE, "hidden_size", 768)
        output = TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", clip_tokens(configs), width))
    return Component(
        name=_SOURCE,
        role=ENCODER_ROLE,
        network=_PROJECTED if projected else _PLAIN,
        source=_SOURCE,
        inputs=(pixels_input("pixel_values", configs[_SOURCE], _SOURCE),),
        outputs=(output,),
        example={"batch": 2},
    )


IMAGE_ENCODER = clip_image_encoder()

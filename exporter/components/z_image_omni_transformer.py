"""ZImageTransformer2DModel of Z-Image Omni: tokens of several images, their features and a text to a velocity."""

from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.z_image_controlnet import network_sizes
from diffoundry.exporter.components.z_image_transformer import describe_transformer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.z_image_transformer_2d import PENDING, TOKEN_MULTIPLE, read_layout

__all__ = ["z_image_omni_transformer"]

_SOURCE = "transformer"


def z_image_omni_transformer(tokens: int, *, encoder: str) -> ComponentKind:
    """Declare the denoiser of Z-Image Omni.

    Args:
        tokens: Tokens of a text by default, a multiple of 32.
        encoder: Folder of the image encoder, whose states are the features of images.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=("diffusers:ZImageTransformer2DModel",),
        describe=partial(_describe, tokens=tokens, encoder=encoder),
    )


def _describe(configs: Configs, *, tokens: int, encoder: str) -> Component:
    plain = describe_transformer(configs, tokens=tokens)
    config, subject = configs[_SOURCE], f"{_SOURCE}/config.json"
    features, width = config.get("siglip_feat_dim"), read_integer(configs, encoder, "hidden_size", 768)
    if features != width:
        raise refuse(subject, "siglip_feat_dim", features, f"{width}, the hidden_size of the image encoder")
    layout = read_layout(config, subject)
    half = sum(layout.axes) // 2
    states, grid = plain.inputs[0], plain.inputs[0].shape[:3]
    text, reference, feature = (("batch", name) for name in ("sequence", "reference", "features"))
    shapes: dict[str, tuple[int | str, ...]] = {
        "timestep": (1,),  # between 0 and 1
        "encoder_hidden_states": (*text, layout.text_width),
        "encoder_attention_mask": text,
        "encoder_token_mask": text,
        "encoder_noise_mask": text,
        "reference_hidden_states": (*reference, layout.token),
        "reference_token_mask": reference,
        "feature_hidden_states": (*feature, width),
        "feature_attention_mask": feature,
        "feature_token_mask": feature,
        "feature_noise_mask": feature,
        **{
            f"{name}_{table}": (*shape, half)
            for name, shape in (
                ("rotary", grid), ("text_rotary", text), ("reference", reference), ("feature", feature),
            )
            for table in ("cos", "sin")
        },
        "padding_mask": (PENDING,),
    }  # fmt: skip
    sizes = network_sizes(configs, tokens)
    sizes["example"] |= {"reference": 2 * TOKEN_MULTIPLE, "features": 3 * TOKEN_MULTIPLE}
    # Engines of one size take prompts alone: they lack the inputs for latents, and all features are hidden.
    sizes["usual"] |= {"reference": 0, "features": TOKEN_MULTIPLE}
    return Component(
        name=_SOURCE,
        role=plain.role,
        network=plain.network,
        source=_SOURCE,
        inputs=(states, *(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())),
        outputs=plain.outputs,
        call=Call(keywords={"timestep": "t"}),
        wrapper="diffoundry.exporter.components.z_image_omni_transformer_module:ZImageOmniModule",
        **sizes,
    )

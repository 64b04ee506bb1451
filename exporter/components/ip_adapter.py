"""IP-Adapters: the image encoder, and the projection of encoded images to tokens of an image prompt.

Ye et al. 2023, https://arxiv.org/abs/2308.06721.
"""

from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.clip_vision import clip_tokens, pixels_input
from diffoundry.exporter.components.unet_conditions import condition_width
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.image_projection import PROMPT_TOKENS, is_ip_adapter
from diffoundry.runtime.models.roles import CONNECTOR, IMAGE_ENCODER

__all__ = ["ENCODER_CLASS", "FULL", "IMAGE_PROMPT_ENCODER", "PLUS", "POOLED", "ip_adapter"]

POOLED, PLUS, FULL = "ImageProjection", "IPAdapterPlusImageProjection", "IPAdapterFullImageProjection"
"""Classes of diffusers: projections of one vector an image, by a resampler, and of every token."""

ENCODER_CLASS = ("transformers", "CLIPVisionModelWithProjection")


def ip_adapter(name: str) -> ComponentKind:
    """Declare the projection of the IP-Adapter of this name: "ip_adapter", "ip_adapter_1" ..."""
    classes = tuple(f"diffusers:{kind}" for kind in (POOLED, PLUS, FULL))
    return ComponentKind(name=name, source=name, classes=classes, describe=partial(_describe, name))


def _describe(name: str, configs: Configs) -> Component:
    config = configs[name]
    kind, taken = str(config["_class_name"]), read_integer(configs, name, "image_embed_dim", None)
    width, unet = read_integer(configs, name, "cross_attention_dim", None), _prompt_width(configs)
    if width != unet:
        owner = "transformer" if "transformer" in configs else "UNet"
        raise ConfigError(
            f"{name}: got an IP-Adapter for prompts of width {width}, but the {owner} has {unet}; it was made for "
            f"another kind of checkpoint"
        )
    _check_encoder(name, kind, taken, configs)
    tokens = "sequence" if kind == FULL else read_integer(configs, name, "num_image_text_embeds", None)
    own = ("batch", taken) if kind == POOLED else ("batch", "sequence", taken)
    return Component(
        name=name,
        role=CONNECTOR,
        network=kind,
        source=name,
        inputs=(TensorSpec(name="image_embeds", dtype="float32", shape=own),),
        outputs=(TensorSpec(name=PROMPT_TOKENS, dtype="float32", shape=("batch", tokens, width)),),
        example={"batch": 2} if kind == POOLED else {"batch": 2, "sequence": 5},
        usual={} if kind == POOLED else {"sequence": clip_tokens(configs)},
        wrapper="diffoundry.exporter.components.image_prompt_module:ProjectionModule",
    )


def _prompt_width(configs: Configs) -> int:
    """Return the width of prompts that the checkpoint's denoiser takes."""
    if "transformer" in configs:
        return read_integer(configs, "transformer", "joint_attention_dim", 4096)
    return condition_width(configs)


def _check_encoder(name: str, kind: str, taken: int, configs: Configs) -> None:
    """Check that the image encoder makes what the adapter takes.

    Raises:
        ConfigError: It does not.
    """
    key, default = ("projection_dim", 512) if kind == POOLED else ("hidden_size", 768)
    made = read_integer(configs, "image_encoder", key, default)
    if made != taken:
        raise ConfigError(
            f"{name}: got an IP-Adapter for image embeddings of width {taken}, but the image encoder makes {made} "
            f"({key}); pass the encoder that it was trained with as --image-encoder"
        )


def _describe_encoder(configs: Configs) -> Component:
    kinds = {str(configs[name]["_class_name"]) for name in configs if is_ip_adapter(name)}
    layers = read_integer(configs, "image_encoder", "num_hidden_layers", 12)
    width = read_integer(configs, "image_encoder", "hidden_size", 768)
    outputs = []
    if POOLED in kinds:
        pooled = read_integer(configs, "image_encoder", "projection_dim", 512)
        outputs.append(TensorSpec(name="image_embeds", dtype="float32", shape=("batch", pooled)))
    if kinds - {POOLED}:
        shape = ("batch", clip_tokens(configs), width)
        outputs.append(TensorSpec(name=f"hidden_states.{layers - 1}", dtype="float32", shape=shape))
    return Component(
        name="image_encoder",
        role=IMAGE_ENCODER,
        network=ENCODER_CLASS[1],
        source="image_encoder",
        inputs=(pixels_input("pixel_values", configs["image_encoder"], "image_encoder"),),
        outputs=tuple(outputs),
        example={"batch": 2},
        call=Call(options={"output_hidden_states": True} if kinds - {POOLED} else {}),
    )


IMAGE_PROMPT_ENCODER = ComponentKind(
    name="image_encoder", source="image_encoder", classes=(":".join(ENCODER_CLASS),), describe=_describe_encoder
)
"""CLIP's image encoder with the outputs that the IP-Adapters of a checkpoint take."""

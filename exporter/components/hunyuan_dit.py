"""HunyuanDiT2DModel: noisy latents, a timestep and prompts of two text encoders to predicted noise.

Li et al. 2024, Hunyuan-DiT, https://arxiv.org/abs/2405.08748.
"""

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.latents import check_latent_channels, latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import flag, refuse
from diffoundry.runtime.models.hunyuan_dit_2d import BERT_TOKENS, SIZE, T5_TOKENS
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["HUNYUAN_DIT"]

_CLASS = "HunyuanDiT2DModel"
_SOURCE = "transformer"


def _describe(configs: Configs) -> Component:
    height, width = latent_dims(configs)
    factor = parse_size(height).divisor
    config, subject = configs[_SOURCE], f"{_SOURCE}/config.json"
    channels = read_integer(configs, _SOURCE, "in_channels", 4)
    check_latent_channels(configs, _SOURCE, channels)
    for name, tokens in (("text_len", BERT_TOKENS), ("text_len_t5", T5_TOKENS)):
        if config.get(name, tokens) != tokens:
            raise refuse(subject, name, config[name], f"{tokens}, as diffusers' pipeline has them")
    head = read_integer(configs, _SOURCE, "attention_head_dim", 88)
    if head % 4:
        raise refuse(subject, "attention_head_dim", head, "a multiple of 4")
    patch = read_integer(configs, _SOURCE, "patch_size", 2)
    pixels = patch * factor
    place = (f"height/{pixels}", f"width/{pixels}", head // 2)
    predicted = channels * (2 if flag(config, "learn_sigma", default=True, subject=subject) else 1)
    sized = flag(config, "use_style_cond_and_image_meta_size", default=True, subject=subject)
    text, t5 = (
        TensorSpec(name=name, dtype="float32", shape=("batch", tokens, read_integer(configs, _SOURCE, field, default)))
        for name, tokens, field, default in (
            ("encoder_hidden_states", BERT_TOKENS, "cross_attention_dim", 1024),
            ("encoder_hidden_states_t5", T5_TOKENS, "cross_attention_dim_t5", 2048),
        )
    )
    sides = DimSpec(multiple_of=pixels)
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", channels, height, width)),
            # Also between the integers, as schedulers on sigmas have them.
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            text,
            TensorSpec(name="text_embedding_mask", dtype="float32", shape=("batch", BERT_TOKENS)),
            t5,
            TensorSpec(name="text_embedding_mask_t5", dtype="float32", shape=("batch", T5_TOKENS)),
            TensorSpec(name="rotary_cos", dtype="float32", shape=place),
            TensorSpec(name="rotary_sin", dtype="float32", shape=place),
            *((TensorSpec(name=SIZE, dtype="float32", shape=("batch", 6)),) if sized else ()),
        ),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=("batch", predicted, height, width)),),
        example={
            "batch": 2, height: 3 * patch, width: 4 * patch, "height": 3 * pixels, "width": 4 * pixels,
        },
        call=Call(),
        sizes={"height": sides, "width": sides},
        wrapper="diffoundry.exporter.components.hunyuan_dit_module:HunyuanDiTModule",
    )  # fmt: skip


HUNYUAN_DIT = ComponentKind(name=_SOURCE, source=_SOURCE, classes=(f"diffusers:{_CLASS}",), describe=_describe)

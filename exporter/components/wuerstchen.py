"""WuerstchenPrior and WuerstchenDiffNeXt: the networks of both stages of Würstchen.

The prior reads a prompt. The decoder reads a prompt and the prior's result. Pernias et al. 2023,
https://arxiv.org/abs/2306.00637.
"""

from collections.abc import Callable, Mapping
from typing import Any

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer, read_levels
from diffoundry.exporter.components.paella_vq_model import paella_factor
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.roles import DENOISER, PRIOR
from diffoundry.runtime.models.wuerstchen import DECODER_LEVELS, features_name

__all__ = ["WUERSTCHEN_DECODER", "WUERSTCHEN_PRIOR"]

_PRIOR_CLASS, _DECODER_CLASS = "WuerstchenPrior", "WuerstchenDiffNeXt"

_PRIOR_SIDE, _DECODER_SIDE = 24, 256
"""Sides of the latents of both stages for an image of 1024 x 1024 pixels, for which they were trained."""

_MODULES = "diffoundry.exporter.components.wuerstchen_module"


def _kind(name: str, network: str, describe: Callable[[Configs], Component]) -> ComponentKind:
    classes = f"wuerstchen:{network}", f"diffusers:{network}"
    return ComponentKind(name=name, source=name, classes=classes, describe=describe)


def _describe_prior(configs: Configs) -> Component:
    height, width = "latent_height", "latent_width"
    channels, text = (read_integer(configs, "prior", key, default) for key, default in (("c_in", 16), ("c_cond", 1024)))
    return Component(
        name="prior",
        role=PRIOR,
        network=_PRIOR_CLASS,
        source="prior",
        inputs=_inputs(("batch", channels, height, width), text),
        outputs=(TensorSpec(name="out_sample", dtype="float32", shape=("batch", channels, height, width)),),
        example={"batch": 2, "sequence": 7, height: 5, width: 6},
        call=Call(keywords={"sample": "x", "timestep": "r", "encoder_hidden_states": "c"}),
        usual={height: _PRIOR_SIDE, width: _PRIOR_SIDE},
        wrapper=f"{_MODULES}:WuerstchenPriorModule",
    )


def _describe_decoder(configs: Configs) -> Component:
    factor, patch = paella_factor(configs, "vqgan"), read_integer(configs, "decoder", "patch_size", 2)
    given, returned, text, effnet = (
        read_integer(configs, "decoder", key, default)
        for key, default in (("c_in", 4), ("c_out", 4), ("clip_embd", 1024), ("effnet_embd", 16))
    )
    levels = len(read_levels(configs, "decoder", "c_hidden", DECODER_LEVELS))
    multiple = patch * 2 ** (levels - 1)
    height, width = f"height/{factor}", f"width/{factor}"
    sides = {height: 2 * multiple, width: 3 * multiple}
    pixels = {symbol: sides[f"{symbol}/{factor}"] * factor for symbol in ("height", "width")}
    step = DimSpec(min=factor * multiple, multiple_of=factor * multiple)
    features = [
        TensorSpec(
            name=features_name(level),
            dtype="float32",
            shape=("batch", effnet, *(f"{symbol}/{factor * patch * 2**level}" for symbol in pixels)),
        )
        for level in _reading_levels(configs, levels)
    ]
    return Component(
        name="decoder",
        role=DENOISER,
        network=_DECODER_CLASS,
        source="decoder",
        inputs=(*_inputs(("batch", given, height, width), text), *features),
        outputs=(TensorSpec(name="out_sample", dtype="float32", shape=("batch", returned, height, width)),),
        example={"batch": 2, "sequence": 7, **sides, **pixels},
        call=Call(keywords={"sample": "x", "timestep": "r", "encoder_hidden_states": "clip"}),
        sizes={"height": step, "width": step},
        usual={"height": _DECODER_SIDE * factor, "width": _DECODER_SIDE * factor},
        wrapper=f"{_MODULES}:WuerstchenDecoderModule",
    )


def _inputs(shape: tuple[int | str, ...], text: int) -> tuple[TensorSpec, ...]:
    """Return the inputs that both networks have."""
    return (
        TensorSpec(name="sample", dtype="float32", shape=shape),
        TensorSpec(name="timestep", dtype="float32", shape=(1,)),  # from 1 to 0
        TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", text)),
    )


def _reading_levels(configs: Configs, levels: int) -> list[int]:
    """List the levels of the decoder that read what the prior made.

    Raises:
        ConfigError: The config has another number of them, or other values than true and false.
    """
    config: Mapping[str, Any] = configs["decoder"]
    reads = config.get("inject_effnet", [level > 0 for level in range(levels)])
    if not isinstance(reads, list) or len(reads) != levels or not all(isinstance(one, bool) for one in reads):
        raise refuse("decoder/config.json", "inject_effnet", reads, f"{levels} of true or false")
    return [level for level, one in enumerate(reads) if one]


WUERSTCHEN_PRIOR = _kind("prior", _PRIOR_CLASS, _describe_prior)
WUERSTCHEN_DECODER = _kind("decoder", _DECODER_CLASS, _describe_decoder)

"""Configs without fields that diffusers and transformers fill in."""

import inspect
import json

import diffusers
import pytest
import transformers
from diffusers.pipelines.deprecated import unclip, wuerstchen
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.components.defaults import DEFAULTS, complete_config
from diffoundry.runtime.bundle.specs import DimSpec

CONFIGS = {
    "CLIPTextModel": transformers.CLIPTextConfig,
    "CLIPTextModelWithProjection": transformers.CLIPTextConfig,
    "CLIPVisionModel": transformers.CLIPVisionConfig,
    "CLIPVisionModelWithProjection": transformers.CLIPVisionConfig,
    "DPTForDepthEstimation": transformers.DPTConfig,
    "T5EncoderModel": transformers.T5Config,
    "BertModel": transformers.BertConfig,
    "UMT5EncoderModel": transformers.UMT5Config,
    "LDMBertModel": LDMBertConfig,
}

PACKAGES = {
    "PaellaVQModel": wuerstchen,
    "StableUnCLIPImageNormalizer": diffusers.pipelines.stable_diffusion,
    "UnCLIPTextProjModel": unclip,
    "WuerstchenDiffNeXt": wuerstchen,
    "WuerstchenPrior": wuerstchen,
}


@pytest.mark.parametrize("network", sorted(set(DEFAULTS) - {"StableDiffusionSafetyChecker"}))
def test_defaults_are_those_of_the_libraries(network):
    if network in CONFIGS:
        own = CONFIGS[network]().to_dict()
    else:
        cls = getattr(diffusers, network, None) or getattr(PACKAGES[network], network)
        own = {name: p.default for name, p in inspect.signature(cls.__init__).parameters.items()}
    plain = {key: list(own[key]) if isinstance(own[key], tuple) else own[key] for key in DEFAULTS[network]}
    assert plain == DEFAULTS[network]


def test_null_stays_and_the_class_follows_the_index():
    assert complete_config({"in_channels": None, "_class_name": "X"}, "AutoencoderKL")["in_channels"] is None
    assert complete_config({"_class_name": "X"}, "AutoencoderTiny")["_class_name"] == "AutoencoderTiny"


def test_a_checkpoint_without_them_has_the_same_interface(own_checkpoint):
    """The tiny networks have some of the defaults; these fields go."""
    whole = open_checkpoint(str(own_checkpoint))
    dropped = 0
    for source, network in (
        ("unet", "UNet2DConditionModel"),
        ("vae", "AutoencoderKL"),
        ("text_encoder", "CLIPTextModel"),
    ):
        path = own_checkpoint / source / "config.json"
        config = json.loads(path.read_text())
        kept = {key: value for key, value in config.items() if DEFAULTS[network].get(key) != value}
        kept.pop("sample_size", None)
        kept.pop("_class_name", None)
        dropped += len(config) - len(kept)
        path.write_text(json.dumps(kept))
    assert dropped >= 8
    less = open_checkpoint(str(own_checkpoint))
    assert less.components == whole.components
    assert less.dims == dict.fromkeys(("height", "width"), DimSpec(multiple_of=8))

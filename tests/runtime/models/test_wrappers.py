"""Wrappers of networks: configs of old checkpoints, against the defaults and the arithmetic of diffusers."""

import types

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.outputs import Outputs, only_output
from diffoundry.runtime.errors import BundleError, ConfigError, EngineError
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.autoencoder_tiny import AutoencoderTiny
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.registry import open_controlnet, open_vae
from diffoundry.runtime.models.sd3_transformer_2d import SD3Transformer2DModel
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel


def session(config, network=""):
    """A session without engines over one component of any role."""
    bundle = types.SimpleNamespace(
        root="b", manifest=None, component=lambda role: role, config=lambda _: config, network=lambda _: network
    )
    return types.SimpleNamespace(bundle=bundle)


@pytest.mark.parametrize(
    ("config", "size"),
    [({}, None), ({"sample_size": None}, None), ({"sample_size": 64}, (64, 64)), ({"sample_size": [96, 64]}, (96, 64))],
)
def test_sample_size_may_be_missing_null_or_two_numbers(config, size):
    assert UNet2DConditionModel(session(config)).sample_size == size


@pytest.mark.parametrize(
    ("config", "size"), [({}, (128, 128)), ({"sample_size": None}, None), ({"sample_size": 64}, (64, 64))]
)
def test_sample_size_of_stable_diffusion_3_may_be_missing_or_null(config, size):
    assert SD3Transformer2DModel(session(config)).sample_size == size


def test_defaults_of_a_unet_are_those_of_diffusers():
    ours, theirs = (
        UNet2DConditionModel(session({})),
        diffusers.UNet2DConditionModel(block_out_channels=(32,) * 4).config,
    )
    assert (ours.in_channels, ours.out_channels) == (theirs.in_channels, theirs.out_channels)
    assert ours.embeds_guidance == (theirs.time_cond_proj_dim is not None)


@pytest.mark.parametrize("width", [256, 255])
def test_guidance_embedding_is_that_of_diffusers(width):
    ours = UNet2DConditionModel(session({"time_cond_proj_dim": width})).embed_guidance(8.5)["timestep_cond"]
    embed = diffusers.StableDiffusionPipeline.get_guidance_scale_embedding
    theirs = embed(None, torch.tensor([8.5 - 1]), embedding_dim=width).numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=5e-4)  # the last bit of angles up to 7,500


@pytest.mark.parametrize(
    ("wrapper", "theirs"),
    [(AutoencoderKL, diffusers.AutoencoderKL), (AutoencoderTiny, diffusers.AutoencoderTiny)],
    ids=["AutoencoderKL", "AutoencoderTiny"],
)
def test_defaults_of_a_vae_are_those_of_diffusers(wrapper, theirs):
    config = theirs().config
    ours = wrapper(session({}))
    assert ours.latent_channels == config.latent_channels
    assert ours.scaling_factor == config.scaling_factor
    assert ours.shift_factor == (config.shift_factor or 0)
    assert ours.scale_factor == 2 ** (len(config.block_out_channels) - 1)


def test_latents_are_shifted_as_diffusers_does():
    """diffusers: `StableDiffusion3Pipeline.__call__` and `StableDiffusion3Img2ImgPipeline.prepare_latents`."""
    vae = AutoencoderKL(session({"scaling_factor": 1.5305, "shift_factor": 0.0609}))
    latents = np.random.default_rng(0).standard_normal((1, 16, 4, 4), np.float32)
    own = torch.from_numpy(latents) / 1.5305 + 0.0609
    np.testing.assert_array_equal(vae.denormalize(latents), own.numpy())
    np.testing.assert_allclose(vae.normalize(own.numpy()), ((own - 0.0609) * 1.5305).numpy(), rtol=1e-6)


_REFUSED = [
    (
        UNet2DConditionModel,
        {"in_channels": "4"},
        "denoiser/config.json: field 'in_channels': got '4', expected a whole",
    ),
    (UNet2DConditionModel, {"out_channels": None}, "field 'out_channels': got null, expected a whole number"),
    (UNet2DConditionModel, {"sample_size": {}}, "field 'sample_size': got {}, expected a whole number"),
    (
        UNet2DConditionModel,
        {"sample_size": [64]},
        r"field 'sample_size': got \[64\], expected a whole number, two",
    ),
    (UNet2DConditionModel, {"sample_size": True}, "field 'sample_size': got true, expected a whole number from 1"),
    (UNet2DConditionModel, {"time_cond_proj_dim": 0.0}, "field 'time_cond_proj_dim': got 0.0, expected a whole number"),
    (UNet2DConditionModel, {"time_cond_proj_dim": 2}, "got 2, expected a whole number from 4 to 1048576 or null"),
    (SD3Transformer2DModel, {"patch_size": 0}, "field 'patch_size': got 0, expected a whole number from 1 to"),
    (SD3Transformer2DModel, {"joint_attention_dim": 10**30}, "got 1000*, expected a whole number from 1 to 1048576"),
    (AutoencoderKL, {"block_out_channels": 0}, "field 'block_out_channels': got 0, expected a list of 1 to 64"),
    (AutoencoderKL, {"block_out_channels": []}, r"field 'block_out_channels': got \[\], expected a list of 1 to 64"),
    (AutoencoderKL, {"block_out_channels": [1] * 17}, "expected at most 16 levels"),
    (AutoencoderKL, {"latent_channels": "x"}, "vae_decoder/config.json: field 'latent_channels': got 'x', expected a"),
    (
        AutoencoderKL,
        {"scaling_factor": float("inf")},
        "field 'scaling_factor': got inf, expected a number from 1e-09",
    ),
    (AutoencoderKL, {"scaling_factor": 0}, "field 'scaling_factor': got 0, expected a number from 1e-09 to 1e"),
    (AutoencoderKL, {"shift_factor": "x"}, "field 'shift_factor': got 'x', expected a number from -1e"),
    (
        AutoencoderKL,
        {"latents_std": [1, 1, 0, 1]},
        "field 'latents_std': got .*, expected null or a list of 4 non",
    ),
    (AutoencoderKL, {"latents_mean": [1, 1]}, "field 'latents_mean': got .*, expected null or a list of 4 numbers"),
    (AutoencoderTiny, {"decoder_block_out_channels": "64"}, "field 'decoder_block_out_channels': got '64', expected"),
]


def test_values_of_configs_are_refused_where_they_are_read():
    for wrapper, config, message in _REFUSED:
        with pytest.raises(ConfigError, match=message):
            wrapper(session(config))


def test_outputs_of_another_network_are_refused():
    outputs = Outputs({"other": np.zeros((1, 4, 8, 8), np.float32), "ids": np.zeros(3, np.int64)}, "unet")
    with pytest.raises(EngineError, match="got the outputs other, ids, expected one named 'out_sample'; its graph"):
        outputs.take("out_sample", (1, 4, 8, 8))
    with pytest.raises(EngineError, match=r"output 'other': got float32 \(1, 4, 8, 8\), expected floats \(2, any\)"):
        outputs.take("other", (2, None))
    with pytest.raises(EngineError, match=r"output 'ids': got int64 \(3,\), expected floats \(3\)"):
        outputs.take("ids", (3,))
    with pytest.raises(EngineError, match="component 'unet': got the outputs other, ids, expected exactly one"):
        only_output(outputs, "unet", (1,))
    assert outputs.take("other", (1, None, 8, 8)).shape == (1, 4, 8, 8)


def test_an_unknown_vae_is_refused():
    with pytest.raises(BundleError, match="got the VAE 'ConsistencyDecoderVAE', expected one of Autoenc"):
        open_vae(session({}, "ConsistencyDecoderVAE"))


def test_an_unknown_controlnet_is_refused():
    with pytest.raises(
        BundleError,
        match="got the ControlNet 'ControlNetXS', expected one of ControlNetModel, FluxControlNetModel, "
        "HunyuanDiT2DControlNetModel, QwenImageControlNetModel, SanaControlNetModel, SD3ControlNetModel, "
        "ZImageControlNetModel; upgrade",
    ):
        open_controlnet(session({}, "ControlNetXS"), "controlnet")


def test_a_controlnet_with_an_unknown_input_is_refused():
    opened = session({})
    opened.inputs = lambda _: [TensorSpec(name=name, dtype="float32", shape=()) for name in ("sample", "x")]
    net = ControlNetModel(opened, "controlnet")
    with pytest.raises(BundleError, match="component 'controlnet': got the input 'x', expected only timestep, sample"):
        net(np.zeros((1, 4, 8, 8), np.float32), 1.0, {}, np.zeros((1, 3, 64, 64), np.float32))

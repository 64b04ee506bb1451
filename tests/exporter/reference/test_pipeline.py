"""The pipeline built from a checkpoint against the one that diffusers itself loads from the same folder."""

import json
import shutil
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.calls import seeded_generator
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.pipelines.controlnet import CONTROL_SEED


def _latents(pipeline, dtype=torch.float32):
    kept = []

    def keep(_pipe, _index, _timestep, values):
        kept.append(values["latents"].float().numpy().copy())
        return {}

    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)).to(dtype)
    pipeline("red apple", num_inference_steps=4, latents=noise, output_type="latent", callback_on_step_end=keep)
    return np.stack(kept)


@pytest.mark.parametrize("variant", ["sd1", "sd2"])
def test_it_is_the_pipeline_that_diffusers_loads(tiny_sd_checkpoint, variant):
    folder = tiny_sd_checkpoint(variant)
    ours = reference_pipeline(open_checkpoint(str(folder)))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    assert type(ours) is type(theirs)
    assert dict(ours.scheduler.config) == dict(theirs.scheduler.config)
    assert type(ours.scheduler) is type(theirs.scheduler)
    # Not equal: where weights begin in memory differs, and on some processors MKL's choice of kernel with it (5e-6).
    np.testing.assert_allclose(_latents(ours), _latents(theirs), rtol=0, atol=5e-5)


def test_random_weights_are_those_of_the_seed(tiny_sd_checkpoint):
    folder = str(tiny_sd_checkpoint())
    first, again, other = (
        _latents(reference_pipeline(open_checkpoint(folder, random_weights=True, seed=seed))) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_all_networks_get_the_dtype_and_the_image_stays(tiny_sd_checkpoint):
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint()))
    pipeline = reference_pipeline(checkpoint, torch.bfloat16)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {weight.dtype for weight in part.parameters()} == {torch.bfloat16}
    reference = _latents(reference_pipeline(checkpoint))
    error = np.abs(_latents(pipeline, torch.bfloat16) - reference).max()
    assert 0 < error < 0.1 * np.abs(reference).max()


def test_an_unknown_scheduler_is_named(tiny_sd_checkpoint, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(tiny_sd_checkpoint(), folder)
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "WarpScheduler"}))
    with pytest.raises(CheckpointError, match=r"got the scheduler 'WarpScheduler', expected one of diffusers'"):
        reference_pipeline(open_checkpoint(str(folder)))


_HUNYUAN = {
    "num_attention_heads": 1, "attention_head_dim": 8, "hidden_size": 8, "cross_attention_dim": 8,
    "transformer_num_layers": 4, "cross_attention_dim_t5": 8, "pooled_projection_dim": 8, "in_channels": 4,
    "patch_size": 2,
}  # fmt: skip
_QWEN = {
    "in_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 1, "joint_attention_dim": 8,
    "axes_dims_rope": (4, 6, 6),
}  # fmt: skip


@pytest.mark.parametrize(
    ("net", "apart"),
    [
        (lambda: None, False),
        (lambda: diffusers.QwenImageControlNetModel(**_QWEN), False),
        (lambda: diffusers.QwenImageControlNetModel(**_QWEN, extra_condition_channels=4), True),
        (lambda: diffusers.HunyuanDiT2DControlNetModel(**_HUNYUAN), True),
        (lambda: diffusers.HunyuanDiT2DMultiControlNetModel([diffusers.HunyuanDiT2DControlNetModel(**_HUNYUAN)]), True),
    ],
)
def test_draws_of_control_images_are_those_of_a_bundle(net, apart):
    """A ControlNet's image that is drawn without the generator of the call has a seed of its own."""
    with torch.device("meta"):
        pipeline = SimpleNamespace(controlnet=net())
    seed = CONTROL_SEED + 1
    own, call = (torch.randn(4, generator=torch.Generator().manual_seed(one)) for one in (CONTROL_SEED, seed))
    with seeded_generator(pipeline, seed) as generator:
        first = torch.randn(4)
        second = torch.randn(4, generator=generator)
    assert torch.equal(first, own if apart else call)
    assert torch.equal(second, call) == apart

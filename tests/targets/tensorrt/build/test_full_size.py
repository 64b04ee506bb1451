"""Stable Diffusion 1.5's UNet at full size, with random weights: minutes and gigabytes, so by hand."""

from contextlib import nullcontext

import pytest

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.jobs.dispatch import run_job
from diffoundry.exporter.jobs.job import EngineJob, PortableJob
from diffoundry.runtime.bundle.specs import DimSpec, Variant

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rtx")]

DIMS = {
    "batch": DimSpec(min=1, max=2),
    "height": DimSpec(min=256, max=768, multiple_of=8),
    "width": DimSpec(min=256, max=768, multiple_of=8),
}


def test_every_attention_and_group_norm_of_sd15_is_fused(tmp_path):
    checkpoint = open_checkpoint("sd15", random_weights=True, seed=0)
    (tmp_path / "unet").mkdir()
    common = {"component": "unet", "dims": DIMS, "folder": str(tmp_path)}
    run_job(PortableJob(checkpoint=checkpoint.describe(), opset=23, **common), lambda _: nullcontext())
    variant = Variant(target="tensorrt-rtx", precision="fp16", options={"compute_capabilities": ["sm89"]})
    job = EngineJob(role="denoiser", variant=variant, first=True, buckets=(), quantization=None, **common)
    metadata = run_job(job, lambda _: nullcontext()).engine.metadata
    found = metadata["structure"]["default"]
    assert found["attentions_fused"] == metadata["attentions"] == 32
    assert found["group_norms_fused"] == metadata["group_norms"] == 61
    assert found["scratch_bytes"] < 300e6
    assert metadata["peak_rss_bytes"] < 7e9

"""The embedded model as a bundle and in PyTorch, measured in turns: the same work, the same image."""

import sys

import numpy as np
import onnxruntime
import pytest

from diffoundry.exporter.reference.baseline import torch_candidates
from diffoundry.runtime.bench import BenchRequest, compare
from diffoundry.runtime.bench.bundle_candidate import BundleCandidate
from diffoundry.runtime.engines.protocol import EngineOptions


@pytest.fixture(scope="module")
def comparison(emoji_bundle):
    request = BenchRequest(prompt="red apple", steps=4, warmups=0, repeats=2, seed=7)
    ours = BundleCandidate(emoji_bundle, request, options=EngineOptions(threads=1))
    return compare(ours, torch_candidates(emoji_bundle, request, ["torch-fp32"], threads=1), request)


@pytest.mark.slow
def test_both_generate_the_same_image(comparison):
    ours, theirs = comparison.report.candidates
    assert theirs.failure is None
    assert theirs.reference
    assert ours.measured.image_fault is None
    assert ours.measured.distance.psnr > 60
    np.testing.assert_allclose(comparison.images[ours.name], comparison.images[theirs.name], atol=1e-3)


def test_both_do_the_same_work(comparison):
    ours, theirs = (candidate.measured for candidate in comparison.report.candidates)
    assert ours.step.per_image == theirs.step.per_image == 4
    assert ours.components.keys() == theirs.components.keys() == {"text_encoder", "unet", "vae_decoder"}
    assert ours.components["unet"].per_image == theirs.components["unet"].per_image == 4
    for one in (ours, theirs):
        assert one.image.count == 2
        assert one.step.seconds.mean == pytest.approx(one.step.inside.mean + one.step.outside.mean)
        assert one.step.seconds.mean * 4 < one.image.mean
        assert one.step.outside.min > 0


def test_each_candidate_describes_itself(comparison):
    ours, theirs = (candidate.facts for candidate in comparison.report.candidates)
    assert (ours["target"], ours["precision"], ours["threads"]) == ("onnxruntime", "fp32", "1")
    assert ours["library"].endswith(onnxruntime.__version__)
    assert (theirs["target"], theirs["precision"], theirs["threads"]) == ("eager", "fp32", "1")
    assert comparison.report.model == "emoji"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_each_one_s_own(comparison):
    theirs = comparison.report.candidates[1].measured
    assert theirs.peak_rss > 200 * 2**20

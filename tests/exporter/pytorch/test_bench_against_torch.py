"""The embedded model as a bundle and in PyTorch, measured in turns: the same work, the same picture."""

import sys

import numpy as np
import onnxruntime
import pytest

from diffoundry.exporter.pytorch.baseline import torch_contenders
from diffoundry.runtime.bench import BenchRequest, compare
from diffoundry.runtime.bench.bundle_contender import BundleContender
from diffoundry.runtime.engine import EngineOptions


@pytest.fixture(scope="module")
def comparison(emoji_bundle):
    request = BenchRequest(prompt="red apple", steps=4, warmups=0, repeats=2, seed=7)
    ours = BundleContender(emoji_bundle, request, options=EngineOptions(threads=1))
    return compare(ours, torch_contenders(emoji_bundle, request, ["torch-fp32"], threads=1), request)


def test_both_paint_the_same_picture(comparison):
    ours, theirs = comparison.report.contenders
    assert theirs.failure is None
    assert theirs.reference
    assert ours.measured.picture_fault is None
    assert ours.measured.distance.psnr > 60
    np.testing.assert_allclose(comparison.pictures[ours.name], comparison.pictures[theirs.name], atol=1e-3)


def test_both_do_the_same_work(comparison):
    ours, theirs = (contender.measured for contender in comparison.report.contenders)
    assert ours.step.per_picture == theirs.step.per_picture == 4
    assert ours.components.keys() == theirs.components.keys() == {"text_encoder", "unet", "vae_decoder"}
    assert ours.components["unet"].per_picture == theirs.components["unet"].per_picture == 4
    for one in (ours, theirs):
        assert one.picture.count == 2
        assert one.step.seconds.mean == pytest.approx(one.step.inside.mean + one.step.outside.mean)
        assert one.step.seconds.mean * 4 < one.picture.mean
        assert one.step.outside.min > 0


def test_each_says_what_it_is(comparison):
    ours, theirs = (contender.facts for contender in comparison.report.contenders)
    assert (ours["target"], ours["precision"], ours["threads"]) == ("onnxruntime", "fp32", "1")
    assert ours["library"].endswith(onnxruntime.__version__)
    assert (theirs["target"], theirs["precision"], theirs["threads"]) == ("eager", "fp32", "1")
    assert comparison.report.model == "emoji"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_each_one_s_own(comparison):
    theirs = comparison.report.contenders[1].measured
    assert theirs.peak_rss > 200 * 2**20

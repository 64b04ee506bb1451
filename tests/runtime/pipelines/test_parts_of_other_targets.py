"""Denoisers in parts on OpenVINO, in halves and with weights of 8 bits: every step within the engine's rounding."""

import numpy as np
import pytest
from approximated_loops import trajectory

from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import EngineOptions, load

FORMS = {
    ("openvino", "fp32"): 1e-4,
    ("onnxruntime", "fp16"): 2e-2,
    ("onnxruntime", "int8-weights"): 1e-3,
    ("openvino", "int8-weights"): 1e-3,
}
"""Target and precision to the largest distance of latents, as a share of their size."""


@pytest.fixture(scope="module", params=["emoji", "emoji-dit"])
def bundles(request, exported):
    """Bundles of one model, whole, split and partitioned, with every form."""
    form = {"target": "onnxruntime,openvino", "precision": "fp32,fp16,int8-weights"}
    form["quantization"] = QuantizationRequest(calibrate=False)
    ways = {"whole": {}, "split": {"split": True}, "partition": {"partition": True}}
    return {name: exported(request.param, **form, **way) for name, way in ways.items()}


def _far(ours, theirs):
    """Return the largest distance of a step."""
    return max(float(np.sqrt(np.square(a - b).mean() / np.square(b).mean())) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_every_step_is_that_of_the_whole_network(bundles):
    distances = {}
    for (target, precision), limit in FORMS.items():
        how = {"target": target, "precision": precision, "options": EngineOptions(threads=1)}
        whole, split, partition = (load(bundles[name], **how) for name in ("whole", "split", "partition"))
        expected, _ = trajectory(whole)
        kept = "deep:2:final=12"  # nothing is left out
        for name, pipe, more in (("split", split, {}), ("kept", split, {"cache": kept}), ("partition", partition, {})):
            distances[target, precision, name] = _far(trajectory(pipe, **more)[0], expected), limit
        cached = {name: trajectory(split, cache="deep:3") for name in ("once", "again")}
        assert _far(cached["once"][0], cached["again"][0]) == 0
        near = _far(cached["once"][0], expected)
        distances[target, precision, "deep:3"] = near, 0.3  # an approximation, but of this image
        assert near > 0
    assert all(far <= limit for far, limit in distances.values()), distances

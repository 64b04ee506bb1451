"""A precision of floats is offered by an engine and runs, or is missing and refused before anything opens."""

import re

import numpy as np
import pytest
from device_precisions import offers

from diffoundry.runtime import load
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.errors import EngineError


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_precision_runs_or_is_refused(controlled_bundle, target, precision):
    bundle = controlled_bundle()
    if offers(target, precision):
        pipe = load(bundle, target=target, precision=precision)
        assert pipe.session.choice("unet").spec.precision == precision
        latents = pipe("a cat", seed=0, num_inference_steps=1, output_type="latent").images
        assert np.isfinite(latents).all()
        return
    listed = ", ".join(find_plugin(target).load("precisions")("cpu"))
    message = f"{target} {precision}: the device 'cpu' does not compute in {precision} itself (it has {listed})"
    with pytest.raises(EngineError, match=re.escape(message)):
        load(bundle, target=target, precision=precision)("a cat", seed=0, num_inference_steps=1)

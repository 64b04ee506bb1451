"""Follows diffusers with a LoRA of a transformer, on one target or several."""

import numpy as np
from system_pair import compare_system

from diffoundry.runtime import load

__all__ = ["check_lora"]


def check_lora(bundle, theirs, file, arguments, targets=("onnxruntime",), **expected):
    """Follow diffusers with a LoRA, and see that the base comes back as it was."""
    for target in targets:
        ours = load(bundle, target=target)
        settings = {**arguments, "seed": 0, "output_type": "latent"}
        before = ours(**settings).images
        report = ours.loras.load(file)
        compare_system(ours, theirs, **arguments)
        assert np.abs(ours(**settings).images - before).max() > 0.03
        ours.loras.unload()
        np.testing.assert_array_equal(ours(**settings).images, before)
        assert {name: getattr(report, name) for name in expected} == expected

"""Denoiser calls that leave idle inputs out, beside the same calls with zeros in all of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["assert_idle_inputs_are_zeros"]


def assert_idle_inputs_are_zeros(pipe: Any, control: Mapping[str, Any], **arguments: Any) -> None:
    """Check that calls without idle inputs compute what the whole graph computes of zeros.

    On ONNX Runtime outputs are equal bit for bit, but for the sign of zeros; on OpenVINO within rounding.

    Args:
        pipe: A pipeline in fp32 of a bundle whose denoiser has idle inputs.
        control: Arguments with which they are fed.
        arguments: Others.
    """
    (component,) = pipe.session.with_role("denoiser")
    idle, calls = pipe.session.idle_inputs(component), []

    def note(name: str, feeds: Any, outputs: Any, _seconds: float) -> None:
        if name == component:
            calls.append((dict(feeds), dict(outputs)))

    common = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 0, "output_type": "latent", **arguments}
    pipe.session.on_call = note
    try:
        pipe(**common)
        left_out = list(calls)
        calls.clear()
        pipe(**common, **control)
    finally:
        pipe.session.on_call = None
    fed, exact = calls[0][0], pipe.session.choice(component).spec.target == "onnxruntime"
    assert idle
    assert idle <= fed.keys()
    zeros = {name: fed[name] if "embeds" in name or "mask" in name else np.zeros_like(fed[name]) for name in idle}
    assert left_out
    for feeds, outputs in left_out:
        assert idle.isdisjoint(feeds)
        wanted = pipe.session.run(component, {**feeds, **zeros})
        for name, array in outputs.items():
            tolerance = 0.0 if exact else 2e-5 * np.abs(wanted[name]).max()
            np.testing.assert_allclose(array, wanted[name], rtol=0, atol=tolerance)

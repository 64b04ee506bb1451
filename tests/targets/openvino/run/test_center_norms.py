"""Normalisation of constants and of tiny deviations from a large mean, against float64."""

import numpy as np
import pytest
import torch

from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.run.center_norms import center_norms

CHANNELS = 6
NORMS = {
    "GroupNormalization<num_groups=2, epsilon=0.000001>": lambda x, *p: torch.nn.functional.group_norm(x, 2, *p, 1e-6),
    "LayerNormalization<axis=-1, epsilon=0.000001>": lambda x, *p: torch.nn.functional.layer_norm(x, (6,), *p, 1e-6),
    "InstanceNormalization<epsilon=0.000001>": lambda x, *p: torch.nn.functional.instance_norm(
        x, weight=p[0], bias=p[1], eps=1e-6
    ),
}
TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N, {dims}] x, float[6] scale, float[6] bias) => (float[N, {dims}] y) {{ y = {norm}(x, scale, bias) }}"""


@pytest.mark.parametrize("norm", NORMS)
def test_constants_give_the_bias_and_others_what_torch_gives(imported, norm):
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal(CHANNELS).astype(np.float32) for name in ("scale", "bias")}
    last = norm.startswith("Layer")
    model = imported(TEXT.format(dims="T, 6" if last else "6, H, W", norm=norm), weights)
    assert center_norms(model) == 1
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    bias = weights["bias"] if last else weights["bias"].reshape(1, -1, 1, 1)
    exact = [torch.from_numpy(weights[name]).double() for name in ("scale", "bias")]
    for mean, spread in ((0.1234, 0), (10.07, 0), (1234.5, 0), (0, 1), (10, 1e-3), (1e4, 1)):
        x = (mean + spread * generator.standard_normal((2, 37, 6) if last else (2, 6, 37, 45))).astype(np.float32)
        found = compiled({"x": x})[0]
        if not spread:
            np.testing.assert_array_equal(found, np.broadcast_to(bias, x.shape))
        expected = NORMS[norm](torch.from_numpy(x).double(), *exact).numpy()
        np.testing.assert_allclose(found, expected, atol=5e-6, err_msg=f"{mean} {spread}")


def test_the_network_is_the_same_twice(imported):
    """Names are fixed, so that OpenVINO's cache of compiled models finds it."""
    weights = {name: np.ones(CHANNELS, np.float32) for name in ("scale", "bias")}
    names = []
    for _ in range(2):
        model = imported(TEXT.format(dims="6, H, W", norm=next(iter(NORMS))), weights)
        center_norms(model)
        names.append(sorted(node.get_friendly_name() for node in model.get_ops()))
    assert names[0] == names[1]

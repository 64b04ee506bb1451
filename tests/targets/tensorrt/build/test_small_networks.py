"""The networks that some checkpoints have beside the usual four, through the real builder."""

import pytest

pytestmark = pytest.mark.usefixtures("rtx")

NETWORKS = [
    ("sd1-checked", "safety_checker", 2, 2),
    ("variation", "image_encoder", 2, 2),
    ("variation", "unet", 14, 7),
    ("sd1-tiny", "vae_encoder", 0, 0),
    ("sd1-tiny", "vae_decoder", 0, 0),
    ("sd3", "text_encoder_3", 2, 2),
    ("sd3", "transformer", 2, 2),
]
ALWAYS = {
    "fp16": [network[:2] for network in NETWORKS if network[:2] != ("variation", "unet")],
    "fp32": [("sd3", "transformer")],
}
"""Precision to the networks that always run. Building the UNet takes longest, and in fp32 no attention is fused."""


@pytest.mark.slow_cases("fp32-*", "*variation*", "*sd3-transformer*", "*safety_checker*")
@pytest.mark.parametrize(
    ("precision", "model", "component", "attentions", "fused"),
    [
        pytest.param(precision, *one, marks=() if one[:2] in always else pytest.mark.slow)
        for precision, always in ALWAYS.items()
        for one in NETWORKS
    ],
)
def test_it_is_built_and_its_attentions_are_one_kernel_each_in_half_precision(
    built, model, component, attentions, fused, precision
):
    """But those over a single token, as of image variation: the builder makes ordinary products of them."""
    spec = built(component, precision, model=model)
    found = spec.metadata["structure"]["64x64"]
    assert spec.metadata["attentions"] == attentions
    assert found["attentions_fused"] == (fused if precision == "fp16" else 0)
    assert sum(found["convolutions"].values()) + sum(found["gemms"].values()) > 0

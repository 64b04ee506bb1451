"""Engines of the real builder: fused attentions and norms, low precision that is really low, memory.

Every number is read from the build log, so that none of it needs a GPU.
"""

import pytest

from diffoundry.targets.tensorrt.build.target import RTXTarget

pytestmark = pytest.mark.usefixtures("rtx")

MATRICES = {"unet": (49, 53), "vae_decoder": (27, 4), "vae_encoder": (19, 4), "text_encoder": (0, 12)}
"""Convolutions and products of each component in half precision; products that share an input may become one."""


SIZE = 256
"""Pixels of the half precision builds: large enough for an attention that is not fused to show in memory."""


def structure(spec, size=64):
    return spec.metadata["structure"][f"{size}x{size}"]


@pytest.mark.slow_cases("vae_decoder")
@pytest.mark.slow_cases("unet", "vae_encoder")
@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_every_attention_is_one_kernel_in_half_precision(built, component):
    spec = built(component, "fp16", SIZE)
    assert structure(spec, SIZE)["attentions_fused"] == spec.metadata["attentions"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("component", "left"), [("unet", 2), ("vae_encoder", 1), ("vae_decoder", 1)])
def test_group_norms_are_one_kernel_each(built, component, left):
    """All but those of a number of channels to a group that the kernel does not take; there are none at full size."""
    spec = built(component, "fp16", SIZE)
    assert spec.metadata["group_norms"] - structure(spec, SIZE)["group_norms_fused"] == left


@pytest.mark.slow
def test_scratch_memory_stays_small_while_attention_is_fused(built):
    """At 256 pixels an unfused attention of this UNet writes scores of 1024 x 1024, for two heads and four rows."""
    found = structure(built("unet", "fp16", SIZE), SIZE)
    assert found["scratch_bytes"] < 2 * 4 * 1024 * 1024 * 2
    assert found["convolutions"] == {"Half": 49}
    assert set(found["gemms"]) == {"Half"}


@pytest.mark.slow
def test_int8_layers_of_the_unet_multiply_in_int8(built):
    found = structure(built("unet", "int8"))
    assert found["convolutions"] == {"Int8": 49}
    assert found["gemms"] == {"Int8": 46}
    assert found["attentions_fused"] == 14
    assert found["group_norms_fused"] == 28


def test_fp32_attention_is_never_fused(built):
    found = structure(built("vae_decoder", "fp32"))
    assert found["attentions_fused"] == 0
    assert found["convolutions"] == {"Float": 27}


@pytest.mark.slow_cases("fp8-*", "bf16-*")
@pytest.mark.parametrize(
    ("precision", "convolutions", "gemms"),
    [
        ("bf16", {"BFloat16": 3}, {"BFloat16": 2}),
        ("int8", {"Int8": 3}, {"Int8": 2}),
        ("fp8", {"FP8": 3}, {"FP8": 2}),
        ("int8-weights", {"Half": 3}, {"Half x Int8": 4}),
    ],
)
def test_the_types_that_a_block_multiplies_in(block_work, precision, convolutions, gemms):
    """Narrow weights of convolutions are widened by a kernel of their own: small in memory, not in arithmetic."""
    found = structure(RTXTarget(compute_capabilities=("sm89",)).lower(block_work(precision)))
    assert found["convolutions"] == convolutions
    assert found["gemms"] == gemms
    assert found["attentions_fused"] == found["group_norms_fused"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights", "fp8"])
def test_every_component_builds_in_every_precision(built, component, precision):
    spec = built(component, precision)
    convolutions, products = MATRICES[component]
    found = structure(spec)
    assert sum(found["convolutions"].values()) in (convolutions, convolutions - 1)
    assert 0 < sum(found["gemms"].values()) <= max(products, 83)
    if precision == "int4-weights" and component == "unet":
        assert found["gemms"]["Half x Int4"] > 40
    fused = 0 if precision == "fp32" else spec.metadata["attentions"]
    assert found["attentions_fused"] == fused

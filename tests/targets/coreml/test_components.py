"""Every component of small models, lowered in every way, against PyTorch."""

import numpy as np
import pytest

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")

WAYS = {
    "iOS16": {"deployment_target": "iOS16"},
    "iOS17": {"deployment_target": "iOS17"},
    "iOS18": {"deployment_target": "iOS18"},
    "iOS18 decomposed": {"deployment_target": "iOS18", "attention": "decomposed"},
    "iOS16 split-einsum": {"deployment_target": "iOS16", "attention": "split-einsum"},
    "neural engine": {"neural_engine": True},
    "swift": {"layout": "swift"},
    "swift, neural engine, iOS18": {"layout": "swift", "neural_engine": True, "deployment_target": "iOS18"},
}

SLOW = ("iOS17", "iOS18 decomposed", "neural engine", "swift")
"""The others have every layout, attention and deployment target but iOS 17, which is the default."""


def check(made, open_engine, torch_outputs, make_feeds, model, component, compare):
    feeds = make_feeds(made.spec.inputs)
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    expected = torch_outputs(model, component, feeds)
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        assert outputs[name].dtype == np.float32
        assert outputs[name].shape == array.shape
        compare(array, outputs[name])
    assert not getattr(engine, "non_finite", None)


@pytest.mark.slow_cases("*-sd2-*")
@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("model", ["emoji", pytest.param("sd1", marks=pytest.mark.slow), "sd2"])
def test_pytorchs_numbers_in_single_precision(lowered, open_engine, torch_outputs, make_feeds, model, component):
    """Seen: 2e-6 to 5e-5 on outputs of up to 30, from sums in other orders. The next test lowers sd1 in other ways."""
    made = lowered(model, component)
    check(
        made, open_engine, torch_outputs, make_feeds, model, component,
        lambda expected, got: np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4),
    )  # fmt: skip


@pytest.mark.slow_cases("*-unet", "*neural engine*-vae_*coder", "*split-einsum-vae_encoder")
@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] if way in SLOW else []) for way in WAYS])
def test_every_way_gives_pytorchs_numbers(lowered, open_engine, torch_outputs, make_feeds, way, component):
    model = "sd2" if "neural" in way else "sd1"
    made = lowered(model, component, **WAYS[way])
    check(
        made, open_engine, torch_outputs, make_feeds, model, component,
        lambda expected, got: np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    "way", [*(pytest.param(w, marks=pytest.mark.slow) for w in ("iOS16", "neural engine")), "iOS18"]
)
def test_half_precision_is_near(lowered, open_engine, torch_outputs, make_feeds, psnr, way, component):
    """Seen: 70 to 90 dB. One rounding of a number of full range is 66 dB off; sums average it."""
    made = lowered("emoji", component, "fp16", **WAYS[way])
    check(
        made, open_engine, torch_outputs, make_feeds, "emoji", component,
        lambda expected, got: psnr(expected, got) > 60 or pytest.fail(f"{psnr(expected, got):.1f} dB"),
    )  # fmt: skip
    whole = lowered("emoji", component)
    assert made.size < 0.53 * whole.size


@pytest.mark.slow
@pytest.mark.parametrize("component", ["unet", "controlnet"])
@pytest.mark.parametrize(
    "way", ["neural engine", *(pytest.param(way, marks=pytest.mark.slow) for way in ("iOS16", "iOS18", "two chunks"))]
)
def test_a_controlnet_and_the_denoiser_that_it_guides(lowered, open_engine, torch_outputs, make_feeds, component, way):
    """A size that cannot be halved: 72 x 88 pixels are 9 x 11 latents, 5 x 6, 3 x 3."""
    options = {"chunks": 2} if way == "two chunks" else WAYS[way]
    made = lowered("controlled", component, buckets=((72, 88),), **options)
    shapes = {spec.name: spec.shape for spec in (*made.spec.inputs, *made.spec.outputs)}
    assert shapes["mid_block_additional_residual"] == (2, 64, 3, 3)
    feeds = make_feeds(made.spec.inputs, sizes={"height": 72, "width": 88})
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    for name, array in torch_outputs("controlled", component, feeds).items():
        np.testing.assert_allclose(outputs[name], array, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "component"),
    [
        ("adapted", "unet"),
        ("adapted", "adapter_1"),
        ("prompted", "unet"),
        ("prompted", "ip_adapter"),
        ("prompted", "ip_adapter_1"),
        ("prompted", "image_encoder"),
    ],
)
@pytest.mark.parametrize("way", ["iOS16", "iOS18", "neural engine"])
def test_adapters_and_the_denoisers_that_take_them(
    lowered, open_engine, torch_outputs, make_feeds, model, component, way
):
    """One size: an image prompt of the usual number of tokens."""
    made = lowered(model, component, buckets=((40, 56),), **WAYS[way])
    feeds = make_feeds(made.spec.inputs, sizes={"height": 40, "width": 56})
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    for name, array in torch_outputs(model, component, feeds).items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-4, atol=1e-4)

"""The networks that some checkpoints have beside the usual four, against PyTorch."""

import numpy as np
import pytest

NETWORKS = [
    ("sd1-checked", "safety_checker"),
    ("variation", "image_encoder"),
    ("variation", "unet"),
    ("sd1-tiny", "vae_encoder"),
    ("sd1-tiny", "vae_decoder"),
    ("sd3", "text_encoder_3"),
    ("sd3", "transformer"),
]


@pytest.fixture
def feeds_of(make_feeds):
    """Inputs of a network; T5's vocabulary is smaller than CLIP's."""

    def make(component, inputs):
        feeds = make_feeds(inputs)
        return {name: array % 512 if component == "text_encoder_3" else array for name, array in feeds.items()}

    return make


@pytest.mark.slow_cases("*sd1-tiny*", "*variation*", "*safety_checker*")
@pytest.mark.parametrize(
    "target", ["iOS18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("iOS16", "iOS17"))]
)
@pytest.mark.parametrize(("model", "component"), NETWORKS)
def test_pytorchs_numbers(lowered, open_engine, torch_outputs, feeds_of, model, component, target):
    made = lowered(model, component, deployment_target=target)
    feeds = feeds_of(component, made.spec.inputs)
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    expected = torch_outputs(model, component, feeds)
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        assert outputs[name].shape == array.shape
        np.testing.assert_allclose(outputs[name], array, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "component"), NETWORKS)
def test_half_precision_is_near(lowered, open_engine, torch_outputs, feeds_of, psnr, model, component):
    made = lowered(model, component, "fp16")
    feeds = feeds_of(component, made.spec.inputs)
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    for name, array in torch_outputs(model, component, feeds).items():
        assert psnr(array, outputs[name]) > 45


def test_tokens_are_those_that_the_pipeline_feeds(lowered):
    """T5 reads 256 tokens, the transformer those and CLIP's 77."""
    assert lowered("sd3", "text_encoder_3").spec.inputs[0].shape[1] == 256
    shapes = {spec.name: spec.shape for spec in lowered("sd3", "transformer").spec.inputs}
    assert shapes["encoder_hidden_states"] == (2, 333, 96)

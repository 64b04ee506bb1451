"""The networks that some checkpoints have beside the usual four, against PyTorch."""

import numpy as np
import pytest

NETWORKS = [
    ("sd1-checked", "safety_checker"),
    ("variation", "image_encoder"),
    ("variation", "unet"),
    ("sd1-tiny", "vae_encoder"),
    ("sd1-tiny", "vae_decoder"),
]


@pytest.mark.parametrize("way", [{}, {"deployment_target": "iOS16"}, {"deployment_target": "iOS18"}], ids=str)
@pytest.mark.parametrize(("model", "component"), NETWORKS)
def test_pytorchs_numbers(lowered, open_engine, torch_outputs, make_feeds, model, component, way):
    made = lowered(model, component, **way)
    feeds = make_feeds(made.spec.inputs)
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    expected = torch_outputs(model, component, feeds)
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("model", "component"), NETWORKS)
def test_half_precision_is_near(lowered, open_engine, torch_outputs, make_feeds, psnr, model, component):
    made = lowered(model, component, "fp16")
    feeds = make_feeds(made.spec.inputs)
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    for name, array in torch_outputs(model, component, feeds).items():
        assert psnr(array, outputs[name]) > 45

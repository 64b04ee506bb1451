"""Components of other pipelines than Stable Diffusion 1's, against PyTorch."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow

VARIANTS = [
    ("xl-distilled", "unet"),  # with every input that those of XL have
    ("xl", "text_encoder_2"),
    *(  # the same operators with other channels
        pytest.param(*one, marks=pytest.mark.slow)
        for one in (("xl", "text_encoder"), ("xl-refiner", "unet"), ("xl-inpaint", "unet"))
    ),
    *(pytest.param(name, "unet", marks=pytest.mark.slow) for name in ("inpaint", "instruct")),
]


@pytest.mark.parametrize(("variant", "component"), VARIANTS)
def test_pytorchs_numbers(lowered, open_engine, torch_outputs, make_feeds, variant, component):
    """As those of Stable Diffusion 1: seen are 5e-5 and less on outputs of up to 30."""
    made = lowered(variant, component)
    feeds = make_feeds(made.spec.inputs)
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    expected = torch_outputs(variant, component, feeds)
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        assert outputs[name].shape == array.shape
        np.testing.assert_allclose(outputs[name], array, rtol=0, atol=1e-4)


def test_half_precision_is_near(lowered, open_engine, torch_outputs, make_feeds, psnr):
    """Seen: 60 dB and more, as of Stable Diffusion 1's."""
    made = lowered("xl-distilled", "unet", "fp16", deployment_target="iOS18")
    feeds = make_feeds(made.spec.inputs)
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    for name, array in torch_outputs("xl-distilled", "unet", feeds).items():
        assert psnr(array, outputs[name]) > 50


def test_texts_are_as_long_as_the_checkpoint_feeds_them(lowered):
    """T5 gets 256 tokens, the transformer those of CLIP beside them, each VAE none."""
    assert lowered("sd3", "text_encoder_3").spec.inputs[0].shape == (1, 256)
    shapes = {spec.name: spec.shape for spec in lowered("sd3", "transformer").spec.inputs}
    assert shapes["encoder_hidden_states"][:2] == (2, 333)
    assert lowered("sd3", "transformer").spec.options["sequence"] == 333

"""OpenVINO GenAI opens our bundles as they are, and generates the images that our runtime generates."""

import json
import shutil

import numpy as np
import pytest
from diffusers import AutoencoderKL

from diffoundry.runtime.errors import EngineError, MissingExtraError
from diffoundry.runtime.pipelines import load
from diffoundry.targets.openvino import import_openvino as vendor
from diffoundry.targets.openvino.build import genai_files
from diffoundry.targets.openvino.build.genai_files import TOKENIZER_FILES, fill_in, write_tokenizer

STEPS = 10


@pytest.fixture(scope="module")
def genai():
    assert vendor.ov  # imported first, without telemetry
    return pytest.importorskip("openvino_genai")


@pytest.fixture(scope="module")
def bundle(exported):
    return exported("emoji", target="openvino", precision="fp32")


def genai_image(genai, bundle, prompt, noise, size, steps, precision="f32"):
    class Noise(genai.Generator):
        def __init__(self):
            genai.Generator.__init__(self)

        def next(self):
            raise AssertionError("single numbers are not asked for")

        def randn_tensor(self, shape):
            assert tuple(shape) == noise.shape
            return vendor.ov.Tensor(noise.copy())

    pipeline = genai.Text2ImagePipeline(str(bundle), "CPU", INFERENCE_PRECISION_HINT=precision)
    tensor = pipeline.generate(
        prompt, height=size, width=size, num_inference_steps=steps, guidance_scale=7.5, generator=Noise()
    )
    return tensor.data[0].astype(int)


def our_image(bundle, prompt, noise, size, steps):
    made = load(bundle, target="openvino")(
        prompt, height=size, width=size, num_inference_steps=steps, guidance_scale=7.5, latents=noise
    )
    return np.asarray(made.images[0]).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "size"),
    [
        pytest.param("red apple", 64, marks=pytest.mark.slow),
        pytest.param("a grinning face " * 40, 64, marks=pytest.mark.slow),
        ("Naïve CAFÉ, don't!", 96),
    ],
)
def test_the_same_image(genai, bundle, prompt, size):
    """GenAI cuts the last fraction of a colour off where we round it; sums of other shapes move it by one more."""
    noise = np.random.default_rng(0).standard_normal((1, 4, size // 8, size // 8)).astype(np.float32)
    theirs = genai_image(genai, bundle, prompt, noise, size, STEPS)
    ours = our_image(bundle, prompt, noise, size, STEPS)
    assert np.ptp(ours) > 100
    assert np.abs(ours - theirs).max() <= 2


def test_a_silent_config_says_what_diffusers_assumes(tmp_path):
    """OpenVINO GenAI takes 1 where the configs of the first checkpoints name no scaling factor."""
    for given, written in (({"latent_channels": 4}, AutoencoderKL().config.scaling_factor), ({"scaling_factor": 2}, 2)):
        (tmp_path / "config.json").write_text(json.dumps(given))
        fill_in(tmp_path / "config.json")
        assert json.loads((tmp_path / "config.json").read_text()) == {**given, "scaling_factor": written}
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


@pytest.mark.slow
def test_the_same_image_at_full_size(genai, exported):
    """Stable Diffusion 1.5 with random weights, 512 x 512, three steps of its own scheduler."""
    bundle = exported("sd15", target="openvino", precision="fp32", random_weights=True)
    noise = np.random.default_rng(0).standard_normal((1, 4, 64, 64)).astype(np.float32)
    theirs = genai_image(genai, bundle, "a lighthouse", noise, 512, 3)
    ours = our_image(bundle, "a lighthouse", noise, 512, 3)
    assert set(np.unique(ours - theirs)) <= {0, 1}


def test_without_the_converter(monkeypatch, tmp_path):
    monkeypatch.setattr(genai_files, "entry_points", lambda **_which: ())
    with pytest.raises(
        MissingExtraError, match=r"needs the Python package 'openvino_tokenizers'.*pip install .*\[openvino\]"
    ):
        write_tokenizer(tmp_path)


def test_a_tokenizer_that_cannot_be_converted(bundle, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(bundle / "tokenizer", folder, ignore=shutil.ignore_patterns("openvino_*"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match=r"tokenizer .*: openvino-tokenizers cannot convert it: .+; check its files"):
        write_tokenizer(folder)


def test_its_files_lie_beside_the_tokenizer(bundle):
    assert all((bundle / "tokenizer" / name).stat().st_size for name in TOKENIZER_FILES)

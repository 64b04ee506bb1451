"""Shared by the tests of pipelines: the embedded model."""

from pathlib import Path

import pytest

EMOJI = Path(__file__).parents[3] / "models/emoji"


@pytest.fixture(scope="session")
def emoji_folder():
    return EMOJI


@pytest.fixture(scope="session")
def emoji(emoji_bundle):
    from diffoundry.runtime import load

    return load(emoji_bundle)


@pytest.fixture(scope="session")
def emoji_openvino(exported):
    from diffoundry.runtime import load

    return load(exported("emoji", target="openvino"))


@pytest.fixture(scope="session")
def apple(emoji):
    """An image to begin with: PIL, 64 x 64."""
    return emoji("a red apple", seed=7, num_inference_steps=10).images[0]


@pytest.fixture(scope="module")
def emoji_diffusers(emoji_folder):
    """diffusers' pipeline of the embedded model."""
    from pipeline_harness import diffusers_pipeline

    return diffusers_pipeline(emoji_folder)


@pytest.fixture(scope="module")
def xl(exported, tiny_sd_checkpoint):
    """Our pipeline and diffusers' of the tiny Stable Diffusion XL."""
    from pipeline_harness import diffusers_pipeline

    from diffoundry.runtime import load

    folder = tiny_sd_checkpoint("xl")
    return load(exported(folder)), diffusers_pipeline(folder, "StableDiffusionXLPipeline")

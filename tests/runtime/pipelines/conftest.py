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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A pipeline of 8 channels, VAE of factor 2, from the golden bundle of the newest format without a ControlNet."""
    import tarfile

    from diffoundry.runtime import load

    folder = tmp_path_factory.mktemp("tiny")
    with tarfile.open(Path(__file__).parents[1] / "golden/v3.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return load(folder)


@pytest.fixture
def emoji_dit_diffusers():
    """diffusers' pipeline of the embedded transformer; a new one, so that hooks may change it."""
    import importlib.resources

    import torch
    from diffusers import StableDiffusion3Pipeline

    folder = importlib.resources.files("diffoundry_models") / "emoji-dit"
    without = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipe = StableDiffusion3Pipeline.from_pretrained(str(folder), dtype=torch.float32, **without)
    pipe.set_progress_bar_config(disable=True)
    return pipe

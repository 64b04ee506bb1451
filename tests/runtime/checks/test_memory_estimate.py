"""Sizes and counts are held against memory before anything is allocated; what fits is never refused."""

import subprocess
import sys
import time

import pytest
from small_bundle import write_small_bundle

from diffoundry.runtime import load
from diffoundry.runtime.checks.memory_estimate import CallSize, least_memory
from diffoundry.runtime.engines import available_memory
from diffoundry.runtime.errors import InputError


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    write_small_bundle(tmp_path / "b")
    monkeypatch.setattr(available_memory, "available_memory", lambda: 24 * 10**9)
    return load(tmp_path / "b")


_TOO_LARGE = [
    ({"height": 100_000, "width": 100_000}, "height and width: got 100000 and 100000, and an image of this size"),
    (
        {"height": 2**31 - 8, "width": 2**31 - 8},
        "at least more than 1000000 TB of memory; this machine has 24 GB avail",
    ),
    ({"height": 10**30, "width": 64}, "height: got 1000000000000000000000000000000, expected 1 to 2147483647 pixels"),
    ({"height": 10**5000, "width": 64}, "height: got a number of more than 4,300 digits, expected 1 to 2147483647"),
    ({"height": "64", "width": 64}, "height: got '64', expected a whole number of pixels"),
    (
        {"num_images_per_prompt": 10**9},
        "num_images_per_prompt: got 1000000000, and 1000000000 images of 16 x 16",
    ),
    ({"num_images_per_prompt": 10**400}, "num_images_per_prompt: got 10000.*, expected a whole number of at least 1"),
    ({"num_images_per_prompt": True}, "num_images_per_prompt: got True, expected a whole number"),
    ({"prompt": ["a"] * 32, "height": 4096, "width": 8192}, "prompt: got 32, and 32 images of 8192 x 4096 pixels take"),
    ({"num_inference_steps": 10**9}, "num_inference_steps is 1000000000, expected at most"),
]


def test_what_does_not_fit_is_refused_at_once(pipeline):
    began = time.perf_counter()
    for arguments, message in _TOO_LARGE:
        with pytest.raises(InputError, match=message):
            pipeline.start(**{"prompt": "a", **arguments})
    assert time.perf_counter() - began < 10


def test_a_prompt_of_a_book_is_refused(pipeline, monkeypatch):
    monkeypatch.setattr(available_memory, "available_memory", lambda: 10**6)
    message = "prompt: got 3572 chunks of 16 tokens, which take at least 1.9 MB of memory; this machine has 1.0 MB"
    with pytest.raises(InputError, match=message):
        pipeline("a " * 50_000, long_prompts=True, guidance_scale=1.0)


def test_tiles_slices_and_latents_take_less(pipeline):
    def least(**changes):
        size = CallSize(**{"images": 4, "height": 4096, "width": 4096, "feature": 4, **changes})
        return least_memory(size, pipeline.denoiser, pipeline.vae)

    whole, one = least(), least(images=1)
    assert least(rows=1) < whole
    assert least(decodes=False) < least(feature=0) < whole
    pipeline.vae.enable_slicing()
    sliced = least()
    pipeline.vae.enable_tiling()
    assert sliced < whole
    assert least(images=1) < one


_CHILD = """
import resource, sys
from diffoundry.runtime import load
from diffoundry.runtime.checks.memory_estimate import CallSize, least_memory
pipeline = load(sys.argv[1])
pipeline("a", num_inference_steps=1, seed=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pipeline("a", num_inference_steps=1, seed=0, num_images_per_prompt=int(sys.argv[2]), height=1024, width=1024)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
size = CallSize(images=int(sys.argv[2]), height=1024, width=1024, feature=4)
print(least_memory(size, pipeline.denoiser, pipeline.vae), grown)
"""


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 2])
def test_the_estimate_is_below_what_a_run_takes(emoji_bundle, images):
    command = [sys.executable, "-c", _CHILD, str(emoji_bundle), str(images)]
    estimate, grown = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert grown / 20 < estimate < grown

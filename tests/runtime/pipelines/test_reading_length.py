"""The code that a reader meets between the call of a text-to-image pipeline and its pixels stays short."""

import sys
from pathlib import Path

import diffoundry.runtime.pipelines

RUNTIME = Path(diffoundry.runtime.pipelines.__file__).parents[1]

COUNTED = ("pipelines", "models")
"""Folders of the runtime that are counted: not schedulers, tokenizers, random numbers and engines."""


def files_run(call):
    """Return the files of the runtime in which `call` runs code."""
    files = set()

    def note(frame, event, _):
        if event == "call":
            files.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {Path(name).relative_to(RUNTIME) for name in files if Path(name).is_relative_to(RUNTIME)}


def test_text_to_image_takes_at_most_10_files_and_1500_lines(tiny):
    arguments = {"num_inference_steps": 2, "height": 16, "width": 16, "seed": 0, "output_type": "np"}
    files = files_run(lambda: tiny("a red apple", **arguments))
    counted = {file: len((RUNTIME / file).read_text().splitlines()) for file in files if file.parts[0] in COUNTED}
    assert Path("pipelines/pipeline.py") in counted
    assert Path("models/autoencoder_kl.py") in counted
    assert len(counted) <= 10, counted
    assert sum(counted.values()) <= 1500, counted

"""Bundles of other kinds over HTTP: images of variations, ControlNets, IP-Adapters and presets are those of a call."""

import base64
import io
import shutil
from contextlib import ExitStack

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from running_server import running_server

from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.edit_config import replace_json
from diffoundry.runtime.presets import PRESETS_FILE

_IMAGE = Image.effect_noise((64, 64), 90).convert("RGB")

_FEW = {"seed": 3, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def preset_bundle(exported, tmp_path_factory):
    """The embedded model with a preset."""
    folder = tmp_path_factory.mktemp("preset") / "preset.bundle"
    shutil.copytree(exported("emoji"), folder)
    arguments = {"num_inference_steps": 3, "cache": "taylor:1", "scheduler": "euler"}
    replace_json(Bundle(folder), PRESETS_FILE, {"fast": {"arguments": arguments, "measured": {}}})
    return folder


@pytest.fixture
def served(wide_bundle, controlled_bundle, image_prompt_bundle, preset_bundle):
    """Factory: a pipeline of a kind, and the server of it."""
    folders = {
        "variation": lambda: wide_bundle("variation"), "control": controlled_bundle, "prompts": image_prompt_bundle,
        "preset": lambda: preset_bundle,
    }  # fmt: skip
    with ExitStack() as stack:

        def serve(kind):
            pipe = stack.enter_context(load(folders[kind](), target="onnxruntime", precision="fp32"))
            return pipe, stack.enter_context(running_server([pipe]))

        yield serve


def _png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _url(image):
    return f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"


def _model(pipe):
    return pipe.session.bundle.root.name.removesuffix(".bundle")


def _pixels(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def _deprecated():
    """Expect the warning of OpenAI's client: its own models make no variations any more."""
    return pytest.warns(DeprecationWarning, match="deprecated")


@pytest.mark.slow
def test_variations_of_the_official_client(served):
    pipe, server = served("variation")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client, _deprecated():
        answer = client.images.create_variation(
            model=_model(pipe), image=("in.png", _png(_IMAGE)), n=2, extra_body=_FEW
        )
    expected = pipe(image=_IMAGE, num_images_per_prompt=2, **_FEW).images
    np.testing.assert_array_equal([_pixels(one.b64_json) for one in answer.data], [np.asarray(one) for one in expected])


_CASES = {
    "control": (
        {"control_image": _url(_IMAGE), "controlnet_conditioning_scale": 0.7},
        {"control_image": _IMAGE, "controlnet_conditioning_scale": 0.7},
    ),
    "prompts": (
        {"ip_adapter_image": [_url(_IMAGE), _url(_IMAGE.rotate(90))], "ip_adapter_scale": [0.4, 0.8]},
        {"ip_adapter_image": [_IMAGE, _IMAGE.rotate(90)], "ip_adapter_scale": [0.4, 0.8]},
    ),
    "preset": ({"preset": "fast"}, {"num_inference_steps": 3, "cache": "taylor:1", "scheduler": "euler"}),
}


@pytest.mark.slow_cases("control", "prompts")
@pytest.mark.parametrize("kind", _CASES)
def test_images_are_those_of_a_call(served, kind):
    pipe, server = served(kind)
    sent, called = _CASES[kind]
    few = {"seed": 3} if kind == "preset" else _FEW
    body = {"model": _model(pipe), "prompt": "a cat", "size": "64x64", **few, **sent}
    answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    expected = pipe("a cat", height=64, width=64, **few, **called).images[0]
    np.testing.assert_array_equal(_pixels(answer.json()["data"][0]["b64_json"]), np.asarray(expected))

"""Every parameter that is unknown or cannot be used is refused with a sentence that names it; nothing is ignored."""

import base64
import io
import re
import shutil

import httpx
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.edit_config import replace_json
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.presets import ARGUMENTS, PRESETS_FILE
from diffoundry.serving.cli.serve import command as serve
from diffoundry.serving.server.errors import from_error
from diffoundry.serving.server.parameter_table import NEUTRAL


def _image(size=(64, 64), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, 90).save(stream, "PNG")
    return stream.getvalue()


def _url(**image):
    return f"data:image/png;base64,{base64.b64encode(_image(**image)).decode()}"


def _error(answer, status=400):
    """Return the error of an answer, after a check of OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


_GENERATIONS = [
    ({"prompt": ""}, "prompt", "got '', expected a text of 1 to 32000 characters"),
    ({"prompt": 3}, "prompt", "got 3, expected a text of 1 to 32000 characters"),
    ({"prompt": ["a", "b"]}, "prompt", "got a list of 2, expected a text"),
    ({"n": 0}, "n", "got 0, expected a whole number from 1 to 10"),
    ({"n": 2.5}, "n", "got 2.5, expected a whole number from 1 to 10"),
    ({"n": True}, "n", "got true, expected a whole number from 1 to 10"),
    ({"size": "big"}, "size", "got 'big', expected WIDTHxHEIGHT in pixels such as 512x512, or auto"),
    ({"size": "100x64"}, "size", "got 100, expected a multiple of 8"),
    ({"size": "4096x4096"}, "size", "4096 x 4096 pixels, expected at most 4,194,304"),
    ({"output_format": "gif"}, "output_format", "got 'gif', expected one of 'png', 'jpeg', 'webp'"),
    ({"output_compression": 50}, "output_compression", "got it with png, which loses nothing"),
    ({"partial_images": 2}, "partial_images", "got 2 without stream, expected true; pass stream"),
    ({"partial_images": 4, "stream": True}, "partial_images", "got 4, expected a whole number from 0 to 3"),
    ({"response_format": "url", "stream": True}, "response_format", "got 'url' with stream"),
    ({"response_format": "file"}, "response_format", "expected one of 'b64_json', 'url'"),
    ({"quality": "high"}, "quality", "got 'high', expected 'auto': the model and num_inference_steps decide"),
    ({"style": "vivid"}, "style", "got 'vivid', expected none: the prompt decides"),
    ({"background": "transparent"}, "background", "expected 'auto' or 'opaque': images have no transparency"),
    ({"moderation": "low"}, "moderation", "the bundle's own safety checker decides"),
    ({"input_fidelity": "high"}, "input_fidelity", "pass strength"),
    ({"quality": ["auto"]}, "quality", "got ['auto'], expected 'auto'"),
    ({"num_step": None}, "num_step", "no such parameter"),
    ({"num_steps": 3}, "num_steps", "no such parameter. Did you mean 'num_inference_steps'?"),
    ({"height": 64}, "height", "no such parameter; pass size, such as 512x768, width first"),
    ({"num_images_per_prompt": 2}, "num_images_per_prompt", "no such parameter; pass n"),
    ({"image": "x"}, "image", "/v1/images/generations does not take it; use /v1/images/edits"),
    ({"num_inference_steps": 0}, "num_inference_steps", "got 0, expected a whole number from 1 to 1000"),
    ({"guidance_scale": "x"}, "guidance_scale", "got 'x', expected a number of at least 0"),
    ({"guidance_scale": 1e308}, "guidance_scale", "expected a number of at least 0 and at most 1000000"),
    ({"guidance_interval": 0.5}, "guidance_interval", "expected a list, each entry a number from 0 to 1"),
    ({"guidance_interval": [0.8, 0.2]}, "guidance_interval", "got (0.8, 0.2)|got [0.8, 0.2]"),
    ({"seed": -(2**70)}, "seed", "got -"),
    ({"scheduler": "eulre"}, "scheduler", "Did you mean 'euler'?"),
    ({"cache": "fast"}, "cache", "got 'fast', expected taylor:ORDER"),
    ({"preset": "fast"}, "preset", "got 'fast', expected none, since this bundle has no presets"),
    ({"loras": "style"}, "loras", "the operator allows no LoRAs (--lora-dir)"),
    ({"loras": ["../../etc/passwd"]}, "loras", "got '../../etc/passwd', expected none"),
    ({"prompt_2": "x"}, "prompt_2", "has no such parameter; GET /v1/models/"),
    ({"control_image": _url()}, "control_image", "control_image"),
    ({"user": "x" * 600}, "user", "a text of 0 to 512 characters"),
]

_EDITS = [
    ({}, "image", "got none, expected an image, or a list"),
    ({"image": "https://example.org/x.png"}, "image", "got the address 'https://example.org/x.png', which this server"),
    ({"image": "file:///etc/passwd"}, "image", "got the address 'file:///etc/passwd', which this server does not open"),
    ({"images": [{"image_url": "http://127.0.0.1/x"}]}, "image", "got the address 'http://127.0.0.1/x'"),
    ({"image": {"image_url": "http://127.0.0.1/x"}}, "image", "got the address 'http://127.0.0.1/x'"),
    ({"image": {"file_id": "file-1"}}, "image", "expected an upload, or a text such as data:image/png;base64,..."),
    ({"image": "/etc/passwd"}, "image", "cannot be read as an image|no base64"),
    ({"image": "data:image/svg+xml;base64,PHN2Zy8+"}, "image", "expected a file in PNG, JPEG or WebP"),
    ({"image": _url(), "mask": _url()}, "mask", "got an image without a fully transparent pixel"),
    ({"image": _url(), "mask": _url(size=(32, 32), mode="LA")}, "mask", "got 32 x 32 pixels, expected 64 x 64"),
    ({"image": _url(size=(60, 60))}, "image", "multiple"),
    ({"image": _url(), "strength": 1.5}, "strength", "got 1.5, expected a number from 0 to 1"),
    ({"image": [_url()] * 17}, "image", "got 17 entries, expected 1 to 16"),
]


def _check(answer, param, sentence):
    error = _error(answer)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"{param}: ") or param in error["message"]
    assert any(words in error["message"] for words in sentence.split("|")), error["message"]


def test_parameters_that_cannot_be_used_are_named(running):
    with httpx.Client(base_url=running.url) as client:
        for body, param, sentence in _GENERATIONS:
            _check(client.post("/v1/images/generations", json={"prompt": "x", **body}), param, sentence)
        for body, param, sentence in _EDITS:
            _check(client.post("/v1/images/edits", json={"prompt": "x", **body}), param, sentence)
        missing = client.post("/v1/images/generations", json={})
        assert _error(missing)["message"] == "prompt: got none for generations, expected a text"
    assert running.state.dispatcher.statistics().submitted == 0


def test_arguments_that_the_scheduler_cannot_compute_with_are_refused(running):
    body = {"prompt": "x", "num_inference_steps": 1000}  # of 1000 timesteps, with steps_offset 1
    error = _error(httpx.post(f"{running.url}/v1/images/generations", json=body, timeout=60))
    assert error["message"].startswith("DDIMScheduler.step: cannot compute with the options")


def test_values_of_openai_that_change_nothing_are_accepted(running):
    body = {name: values[0] for name, (values, _) in NEUTRAL.items() if values}
    nothing = dict.fromkeys(NEUTRAL, None)
    for more in (body, nothing):
        answer = httpx.post(
            f"{running.url}/v1/images/generations", json={"prompt": "x", "num_inference_steps": 1, **more}, timeout=60
        )
        assert answer.status_code == 200


def test_a_form_is_read_as_json_is(running):
    files = {"image": ("../../x\\in.png", _image(), "image/png")}
    answer = httpx.post(
        f"{running.url}/v1/images/edits", data={"prompt": "x", "strength": "much"}, files=files
    )  # fmt: skip
    _check(answer, "strength", "got 'much', expected a number from 0 to 1")
    for name in ("n", "quality", "negative_prompt"):
        both = {"image": _image(), name: ("much.txt", b"\xff" * 1000)}
        answer = httpx.post(f"{running.url}/v1/images/edits", data={"prompt": "x"}, files=both)
        _check(answer, name, "got the file 'much.txt', expected")
    answer = httpx.post(f"{running.url}/v1/images/edits", data={"prompt": "x", "image": "in.png"}, files={"x": b""})
    assert _error(answer)["param"] in ("image", "x")


def test_parameters_in_the_address_are_refused(running):
    answer = httpx.post(f"{running.url}/v1/images/generations?n=5", json={"prompt": "x"})
    _check(answer, "n", "got it in the address, expected it in the body; move it there")


def test_errors_with_a_number_name_their_parameter():
    error = from_error(InputError("prompt 2: got half of a surrogate pair"))
    assert (error.status, error.param, error.message) == (400, "prompt", "prompt: got half of a surrogate pair")


_TRANSLATED = {
    "DDIMScheduler.set_timesteps does not take 'timesteps'. It takes num_inference_steps.": ("timesteps", ""),
    "DDIMScheduler.set_timesteps: num_inference_steps is 5000, expected at most 1000": ("num_inference_steps", ""),
    "image: got 64 x 64 pixels; resize it, or pass height and width, to which it is resized": (
        "image", "image: got 64 x 64 pixels; resize it, or pass size, to which it is resized"
    ),
    "bundle a: damaged": (None, ""),
}  # fmt: skip


@pytest.mark.parametrize("sentence", _TRANSLATED)
def test_sentences_of_the_runtime_name_parameters(sentence):
    param, message = _TRANSLATED[sentence]
    error = from_error(InputError(sentence))
    assert (error.param, error.message) == (param, message or sentence)


def test_bundles_with_damaged_presets_are_refused_at_the_start(emoji_bundle, tmp_path):
    folder = tmp_path / "emoji.bundle"
    shutil.copytree(emoji_bundle, folder)
    replace_json(Bundle(folder), PRESETS_FILE, {"fast": {"arguments": {"strength": 0.5}, "measured": {}}})
    result = CliRunner().invoke(serve, [str(folder), "--port", "0"])
    assert str(result.exception) == (
        f"{folder / PRESETS_FILE}: got 'fast' without arguments that a preset may hold, expected only "
        f"{', '.join(ARGUMENTS)}; run 'diffoundry tune' again"
    )


def test_memory_that_the_server_exceeds_is_refused(emoji_bundle):
    result = CliRunner().invoke(serve, [str(emoji_bundle), "--port", "0", "--memory", "100kB"])
    assert re.fullmatch(
        r"--memory: got 100\.0 kB, expected more than the [0-9.]+ [MG]B that this server holds before it opens an "
        r"engine; a job needs its engines as well",
        str(result.exception),
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/images/generations", 405, "wrong_request"),
        ("POST", "/v1/models", 405, "wrong_request"),
        ("GET", "/v1/chat/completions", 404, "not_found"),
        ("GET", "/v1/jobs/none-of-these", 404, "no_job"),
        ("DELETE", "/v1/jobs/none-of-these", 404, "no_job"),
        ("GET", "/v1/images/files/none", 404, "no_image"),
        ("GET", "/v1/images/files/..%2f..%2fetc%2fpasswd", 404, "n"),
    ],
)
def test_wrong_addresses_are_told_in_the_same_form(running, method, path, status, code):
    error = _error(httpx.request(method, f"{running.url}{path}"), status)
    assert error["code"].startswith(code)


def test_an_id_of_other_letters_is_refused(running):
    headers = {"X-Request-Id": "a b"}
    error = _error(httpx.post(f"{running.url}/v1/images/generations", json={"prompt": "x"}, headers=headers))
    assert error["message"] == "X-Request-Id: got 'a b', expected 8 to 64 letters, digits, - and _"

"""Chains of bundles over HTTP: a base model with its refiner, and a prior with its decoder, are one model each."""

import base64
import concurrent.futures
import contextlib
import io

import diffusers
import httpx
import numpy as np
import openai
import pytest
from click.testing import CliRunner
from PIL import Image
from running_server import running_server
from tiny_kandinsky import DDIM, make_decoder, make_prior

from diffoundry.runtime import load
from diffoundry.runtime.cli.pipeline_options import IMAGE_FILES
from diffoundry.runtime.cli.prepared_run import ARGUMENTS
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.chain import chain
from diffoundry.serving.cli.serve import command
from diffoundry.serving.server import models
from diffoundry.serving.server.models import name_models
from diffoundry.serving.server.parameter_table import PARAMETERS

_XL = {"num_inference_steps": 5, "denoising_end": 0.6, "negative_prompt": "blue"}
_PRIOR = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "prior_guidance_scale": 2.0}


@pytest.fixture(scope="module")
def serve():
    """Serve the chain of some bundles: pipeline, server, and OpenAI's client, which tries once."""
    with contextlib.ExitStack() as stack:

        def start(*bundles):
            pipe = stack.enter_context(chain(*(load(one, target="onnxruntime", precision="fp32") for one in bundles)))
            server = stack.enter_context(running_server([pipe]))
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
            return pipe, server, stack.enter_context(client)

        yield start


@pytest.fixture(scope="module")
def prior(serve, system_checkpoint, exported):
    """A prior with its decoder."""
    name, target = "KandinskyV22Pipeline", "onnxruntime,openvino"
    make = lambda folder: make_decoder(folder, name, diffusers.DDIMScheduler(**DDIM))  # noqa: E731
    folders = system_checkpoint("kandinsky-prior", make_prior), system_checkpoint(name, make)
    return serve(*(exported(folder, target=target) for folder in folders))


@pytest.fixture(scope="module")
def refined(serve, tiny_sd_checkpoint, exported):
    """A base model with its refiner."""
    return serve(*(exported(tiny_sd_checkpoint(name)) for name in ("xl", "xl-refiner")))


def _model(pipe):
    return "+".join(session.bundle.root.name.removesuffix(".bundle") for session in pipe.sessions)


def _open(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def _compare(served, size, arguments, seeds):
    """Compare images that are generated at once with those of calls."""
    pipe, _, client = served

    def generate(seed):
        answer = client.images.generate(
            model=_model(pipe), prompt="a red apple", size=size, extra_body={**arguments, "seed": seed}
        )
        return _open(answer.data[0].b64_json)

    with concurrent.futures.ThreadPoolExecutor(len(seeds)) as threads:
        images = list(threads.map(generate, seeds))
    width, height = map(int, size.split("x"))
    for seed, image in zip(seeds, images, strict=True):
        expected = pipe("a red apple", seed=seed, width=width, height=height, **arguments).images[0]
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
        assert f'"bundle": "{pipe.bundle_name}"' in image.text["diffoundry"]


def test_images_of_a_prior_and_its_decoder_are_those_of_a_call(prior):
    _compare(prior, "16x12", _PRIOR, range(2))


@pytest.mark.slow
def test_images_of_a_base_model_and_its_refiner_are_those_of_a_call(refined):
    _compare(refined, "96x64", _XL, range(3))


@pytest.mark.slow
def test_a_base_model_shows_previews_of_its_own(refined):
    """Latents of the base model, which ends after three of five steps, are decoded by its own VAE."""
    pipe, _, client = refined
    events = list(
        client.images.generate(
            model=_model(pipe), prompt="a red apple", size="96x64", stream=True, partial_images=2,
            extra_body={**_XL, "seed": 0},
        )
    )  # fmt: skip
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image"] * (len(events) - 1) + ["completed"]
    run = pipe.start("a red apple", seed=0, width=96, height=64, **_XL)
    shown = {step.stage: np.asarray(run.preview()[0]) for step in run if step.index == 1}
    np.testing.assert_array_equal(np.asarray(_open(events[0].b64_json)), shown["first"])


def test_a_model_says_what_a_chain_takes(prior, monkeypatch):
    pipe, server, _ = prior
    (found,) = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]
    assert found["id"] == _model(pipe)
    assert found["pipeline_class"] == "KandinskyV22PriorPipeline+KandinskyV22Pipeline"
    assert (found["bundle"], "+".join(found["bundles"])) == (pipe.bundle_name, pipe.bundle_name)
    assert {"prior_num_inference_steps", "prior_guidance_scale", "guidance_scale"} <= {*found["parameters"]}
    monkeypatch.setattr(models, "model_facts", None)  # they are gathered once
    assert httpx.get(f"{server.url}/v1/models/{_model(pipe)}", timeout=60).json() == found


def test_refusals_of_a_chain(prior):
    pipe, server, _ = prior
    name = _model(pipe)
    for body, message in (
        ({"size": "16x14"}, "size: got 14, expected a multiple of 4"),
        ({"strength": 0.5}, "strength: /v1/images/generations does not take it; use /v1/images/edits"),
        ({"super_res_num_inference_steps": 2}, f"super_res_num_inference_steps: {name} has no such parameter; GET /v1"),
        ({"loras": "style"}, f"loras: {name} takes no LoRAs; leave it out"),
    ):
        answer = httpx.post(f"{server.url}/v1/images/generations", json={"model": name, "prompt": "x", **body})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"].startswith(message)
        assert answer.json()["error"]["param"] == next(iter(body))
    with pytest.raises(InputError, match=r"BUNDLE .*: a KandinskyV22PriorPipeline makes no images, expected a bundle"):
        name_models([pipe.first], 0)


def test_a_plus_has_a_bundle_on_both_sides():
    with pytest.raises(InputError, match=r"BUNDLE: got 'prior.bundle\+', expected a bundle on both sides"):
        CliRunner().invoke(command, ["prior.bundle+"], catch_exceptions=False)


def test_every_argument_of_generate_is_a_parameter():
    other_words = {"height", "width", "num_images_per_prompt", "batch_size"}  # size and n
    of_the_operator = {"disable_watermark"}
    assert {*ARGUMENTS, *IMAGE_FILES} - {*PARAMETERS} == other_words | of_the_operator

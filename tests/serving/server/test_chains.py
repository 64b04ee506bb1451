"""Chains of bundles over HTTP: a base model with its refiner, and a prior with its decoder, are one model each."""

import base64
import concurrent.futures
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
from diffoundry.serving.server.models import name_models
from diffoundry.serving.server.parameter_table import PARAMETERS

_XL = {"num_inference_steps": 5, "denoising_end": 0.6, "negative_prompt": "blue"}
_PRIOR = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "prior_guidance_scale": 2.0}


@pytest.fixture(scope="module")
def pipes(tiny_sd_checkpoint, system_checkpoint, exported):
    """A chain of each kind."""
    decoder = "KandinskyV22Pipeline"
    folders = {
        "xl": [exported(tiny_sd_checkpoint(name)) for name in ("xl", "xl-refiner")],
        "prior": [
            exported(system_checkpoint("kandinsky-prior", make_prior), target="onnxruntime,openvino"),
            exported(
                system_checkpoint(
                    decoder, lambda folder: make_decoder(folder, decoder, diffusers.DDIMScheduler(**DDIM))
                ),
                target="onnxruntime,openvino",
            ),
        ],
    }
    opened = {
        name: chain(*(load(one, target="onnxruntime", precision="fp32") for one in both))
        for name, both in folders.items()
    }
    yield opened
    for pipe in opened.values():
        pipe.close()


@pytest.fixture(scope="module")
def server(pipes):
    """A server of all."""
    with running_server(pipes.values()) as running:
        yield running


@pytest.fixture
def client(server):
    """OpenAI's client, which tries once."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as found:
        yield found


def _model(pipe):
    return "+".join(session.bundle.root.name.removesuffix(".bundle") for session in pipe.sessions)


def _open(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_images_are_those_of_a_call_alone_and_in_company(pipes, client):
    def generate(job):
        kind, seed, size, arguments = job
        answer = client.images.generate(
            model=_model(pipes[kind]), prompt="a red apple", size=size, extra_body={**arguments, "seed": seed}
        )
        return _open(answer.data[0].b64_json)

    jobs = [("xl", 0, "96x64", _XL), ("prior", 0, "16x12", _PRIOR), ("xl", 1, "96x64", _XL)]
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        images = list(threads.map(generate, jobs))
    for (kind, seed, size, arguments), image in zip(jobs, images, strict=True):
        width, height = map(int, size.split("x"))
        expected = pipes[kind]("a red apple", seed=seed, width=width, height=height, **arguments).images[0]
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
        assert f'"bundle": "{pipes[kind].bundle_name}"' in image.text["diffoundry"]


def test_both_pipelines_show_previews(pipes, client):
    """Latents of the base model, which ends after three of five steps, are decoded by its own VAE."""
    pipe = pipes["xl"]
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


def test_models_say_what_a_chain_takes(pipes, server):
    found = {one["id"]: one for one in httpx.get(f"{server.url}/v1/models").json()["data"]}
    assert list(found) == [_model(pipe) for pipe in pipes.values()]
    prior = found[_model(pipes["prior"])]
    assert prior["pipeline_class"] == "KandinskyV22PriorPipeline+KandinskyV22Pipeline"
    assert prior["bundle"] == pipes["prior"].bundle_name
    assert {"prior_num_inference_steps", "prior_guidance_scale", "guidance_scale"} <= {*prior["parameters"]}
    one = httpx.get(f"{server.url}/v1/models/{_model(pipes['prior'])}").json()
    assert one["id"] == prior["id"]


def test_refusals_of_a_chain(pipes, server):
    def error(kind, **body):
        body = {"model": _model(pipes[kind]), "prompt": "x", **body}
        answer = httpx.post(f"{server.url}/v1/images/generations", json=body)
        assert answer.status_code == 400, answer.text
        return answer.json()["error"]

    few = error("prior", size="16x14")
    assert few["message"].startswith("size: got 14, expected a multiple of 4")
    assert few["param"] == "size"
    name = _model(pipes["xl"])
    assert error("xl", prior_num_inference_steps=2)["message"] == (
        f"prior_num_inference_steps: {name} has no such parameter; GET /v1/models/{name} lists all"
    )
    assert error("xl", loras="style")["message"] == f"loras: {_model(pipes['xl'])} takes no LoRAs; leave it out"
    prior = pipes["prior"].first
    with pytest.raises(InputError, match=r"BUNDLE .*: a KandinskyV22PriorPipeline makes no images, expected a bundle"):
        name_models([prior], 0)


def test_a_plus_has_a_bundle_on_both_sides():
    with pytest.raises(InputError, match=r"BUNDLE: got 'prior.bundle\+', expected a bundle on both sides"):
        CliRunner().invoke(command, ["prior.bundle+"], catch_exceptions=False)


def test_every_argument_of_generate_is_a_parameter():
    other_words = {"height", "width", "num_images_per_prompt", "batch_size"}  # size and n
    of_the_operator = {"disable_watermark"}
    assert {*ARGUMENTS, *IMAGE_FILES} - {*PARAMETERS} == other_words | of_the_operator

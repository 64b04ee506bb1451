"""The deployment for Ray Serve: refusals, and on a cluster of this machine images equal to those of a call."""

import base64
import concurrent.futures
import io
import json
import os
import shutil
import socket
import sys

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from running_server import wait_until

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError, MissingExtraError
from diffoundry.serving.ray import build, images_app

_FEW = {"seed": 3, "num_inference_steps": 3}


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"diffoundry.serving.ray needs the Python package 'ray', .*\[ray\]"):
        images_app(tmp_path)


@pytest.fixture(scope="module")
def ray():
    """Ray, where it is installed."""
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'diffoundry[ray]'")
    import ray

    return ray


def test_refusals(tmp_path):
    for folder in ("a.bundle", "other/a.bundle"):
        (tmp_path / folder).mkdir(parents=True)
    bundle = str(tmp_path / "a.bundle")
    for call, message in (
        (lambda: images_app(), "bundles: got none, expected at least one folder"),
        (lambda: images_app(bundle, tmp_path / "other/a.bundle"), "bundles: got two named 'a', .*; rename one of"),
        (lambda: images_app(bundle, active=0), "active: got 0, expected a whole number of at least 1"),
        (lambda: images_app(bundle, min_replicas=3), "max_replicas: got 1, expected at least min_replicas, 3"),
        (lambda: build({"bundles": bundle, "max_replica": "2"}), "max_replica: no such argument. Did you mean 'max_r"),
        (
            lambda: build({"bundles": bundle, "zzz": "2"}),
            "zzz: no such argument. Expected one of bundles, min_rep",
        ),
        (lambda: images_app(f"{bundle}+"), r"bundles: got '.*\+', expected a bundle on both sides of a plus; remove"),
        (lambda: build({"bundles": bundle, "queue": "many"}), "queue: got 'many', expected a number"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_files_of_the_operator_are_read_at_once(ray, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("short\n")
    with pytest.raises(InputError, match=f"api_key_file {keys}: key 1 is too short"):
        images_app(tmp_path, api_key_file=keys)
    with pytest.raises(InputError, match=r"lora_dir: got '.*keys.txt', which is no folder, expected one with \.safet"):
        images_app(tmp_path, lora_dir=keys)


def test_a_machine_with_another_bundle_is_refused(ray, tmp_path):
    from diffoundry.runtime.bundle.identity import identify
    from diffoundry.serving.ray.replica import BundleReplica, ReplicaOptions
    from diffoundry.serving.server.security import ApiKeys

    (tmp_path / "diffoundry.json").write_text("{}")
    given = ReplicaOptions(
        bundles={"a": (tmp_path,)}, identity=identify([tmp_path]), engines={}, active=1, queue=1, keys=ApiKeys(),
        loras=tmp_path / "missing",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"diffoundry.serving.ray: the replica on .* has no folder .*/missing, exp"):
        BundleReplica(given)
    (tmp_path / "diffoundry.json").write_text("{ }")
    with pytest.raises(InputError, match=r"the replica on .* has another bundle at .* than the machine of the command"):
        BundleReplica(given)


def test_texts_become_numbers(ray, tmp_path):
    bundle = str(tmp_path)
    made = build({"bundles": [bundle], "max_replicas": "4", "num_cpus": "2"})
    assert made._bound_deployment.ray_actor_options["num_cpus"] == 2


@pytest.fixture(scope="module")
def deploy(ray):
    """Run an application on a cluster of two CPUs; gives its address."""
    from ray import serve

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local", num_cpus=2, object_store_memory=100 * 10**6, include_dashboard=False, logging_level="ERROR"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})

    def run(application):
        serve.run(application)
        return f"http://127.0.0.1:{port}"

    yield run
    serve.shutdown()
    ray.shutdown()


def _pixels(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def _expected(pipe, **arguments):
    return np.asarray(pipe("red apple", **{**_FEW, **arguments}).images[0])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_bundle_answers_as_a_call_does(deploy, emoji_pipe):
    from ray import serve

    bundle = emoji_pipe.session.bundle.root
    model = bundle.name.removesuffix(".bundle")
    url = deploy(images_app(bundle, max_replicas=2, num_cpus=0.5, threads=1))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=600) as client:

        def generate(seed):
            return client.images.generate(model=model, prompt="red apple", extra_body={**_FEW, "seed": seed})

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(generate, range(6)))
        for seed, answer in enumerate(answers):
            np.testing.assert_array_equal(_pixels(answer.data[0].b64_json), _expected(emoji_pipe, seed=seed))
        types = [event.type for event in client.images.generate(
            model=model, prompt="red apple", stream=True, partial_images=1, extra_body=_FEW
        )]  # fmt: skip
        assert types == ["image_generation.partial_image", "image_generation.completed"]
        with pytest.raises(openai.BadRequestError, match="response_format: got 'url', expected 'b64_json': this"):
            client.images.generate(model=model, prompt="x", response_format="url")
        with pytest.raises(openai.NotFoundError, match="serve_multiplexed_model_id: got 'zzz', expected '"):
            client.images.generate(prompt="x", extra_headers={"serve_multiplexed_model_id": "zzz"})
    handle = serve.get_app_handle("default")
    output = handle.generate.remote("red apple", **_FEW).result(timeout_s=600)
    np.testing.assert_array_equal(np.asarray(output.images[0]), _expected(emoji_pipe))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_keys_and_loras_by_name(deploy, emoji_pipe, tmp_path):
    from importlib.resources import files

    from ray import serve

    key = "k" * 32
    (tmp_path / "keys.txt").write_text(f"{key}\n")
    lora = files("diffoundry_models") / "emoji-flat/pytorch_lora_weights.safetensors"
    shutil.copyfile(str(lora), tmp_path / "flat.safetensors")
    bundles = [tmp_path / f"{name}.bundle" for name in ("first", "second")]
    for bundle in bundles:
        shutil.copytree(emoji_pipe.session.bundle.root, bundle)
    url = deploy(images_app(*bundles, api_key_file=tmp_path / "keys.txt", lora_dir=tmp_path, num_cpus=0.5, threads=1))
    head = {"Authorization": f"Bearer {key}", "serve_multiplexed_model_id": "first"}

    def post(headers=head, **body):
        body = {"prompt": "red apple", **_FEW, **body}
        return httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=600)

    for headers in ({}, {**head, "Authorization": "Bearer wrong"}, {"serve_multiplexed_model_id": "zzz"}):
        assert post(headers).json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{url}/v1/models", headers=headers, timeout=600).status_code == 401
    assert httpx.get(f"{url}/ready", timeout=600).status_code == 200
    (model, _) = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=600).json()["data"]
    assert model["loras"] == ["flat"]
    with load(bundles[0]) as pipe:
        pipe.loras.load(str(tmp_path / "flat.safetensors"), scale=0.5)
        expected = _expected(pipe)
    styled = post(loras=["flat:0.5"])
    assert styled.status_code == 200, styled.text
    np.testing.assert_array_equal(_pixels(styled.json()["data"][0]["b64_json"]), expected)
    np.testing.assert_array_equal(_pixels(post().json()["data"][0]["b64_json"]), _expected(emoji_pipe))
    assert post(loras="round").json()["error"]["message"] == "loras: got 'round', expected one of flat."
    handle = serve.get_app_handle("default").options(multiplexed_model_id="second")
    output = handle.generate.remote("red apple", loras=["flat:0.5"], **_FEW).result(timeout_s=600)
    np.testing.assert_array_equal(np.asarray(output.images[0]), expected)
    for arguments, message in (
        ({"loras": "x"}, "loras: got 'x', expected one of flat"),
        ({"step": 1}, "step: no such"),
    ):
        with pytest.raises(InputError, match=message):
            handle.generate.remote("red apple", **arguments).result(timeout_s=600)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_client_that_leaves_ends_its_job(deploy, emoji_pipe):
    url = deploy(images_app(emoji_pipe.session.bundle.root, num_cpus=0.5, threads=1))
    body = json.dumps({"prompt": "x", "num_inference_steps": 900}).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"  # noqa: E501
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
        client.sendall(head.encode() + body)
        wait_until(lambda: "diffoundry_jobs_active 1.0" in httpx.get(f"{url}/metrics").text, 120)
    wait_until(lambda: 'diffoundry_jobs_total{state="cancelled"} 1.0' in httpx.get(f"{url}/metrics").text, 120)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_several_bundles_take_turns_in_a_replica(deploy, emoji_pipe, tmp_path):
    from ray import serve

    bundles = [tmp_path / f"{name}.bundle" for name in ("first", "second")]
    for bundle in bundles:
        shutil.copytree(emoji_pipe.session.bundle.root, bundle)
    url = deploy(images_app(*bundles, models_per_replica=1, num_cpus=0.5, threads=1))

    def post(**headers):
        body = {"prompt": "red apple", **_FEW}
        return httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=600)

    assert [one["id"] for one in httpx.get(f"{url}/v1/models", timeout=600).json()["data"]] == ["first", "second"]
    assert post().status_code == 400
    assert post().json()["error"]["message"] == "serve_multiplexed_model_id: got none, expected one of first, second"
    expected = _expected(emoji_pipe)
    for name in ("first", "second", "first"):
        answer = post(serve_multiplexed_model_id=name)
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(_pixels(answer.json()["data"][0]["b64_json"]), expected)
        only = httpx.get(f"{url}/v1/models", headers={"serve_multiplexed_model_id": name}, timeout=600).json()["data"]
        assert [one["id"] for one in only] == [name]
    handle = serve.get_app_handle("default").options(multiplexed_model_id="second")
    with concurrent.futures.ThreadPoolExecutor(6) as threads:  # a bundle is closed only after its requests
        calls = [threads.submit(post, serve_multiplexed_model_id=name) for name in ("first", "second") * 3]
        assert [call.result().status_code for call in calls] == [200] * 6
    output = handle.generate.remote("red apple", **_FEW).result(timeout_s=600)
    np.testing.assert_array_equal(np.asarray(output.images[0]), expected)

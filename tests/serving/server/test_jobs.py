"""Jobs: looking at them, cancelling by DELETE and by leaving, time limits, metrics, several models, LoRAs."""

import base64
import io
import json
import shutil
import signal
import socket
import threading

import httpx
import pytest
from lora_files import random_lora
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from running_server import running_server, wait_until

from diffoundry.runtime import load
from diffoundry.serving.lora_folder import LoraFolder
from diffoundry.serving.server.limits import Limits

_LONG = {"prompt": "x", "num_inference_steps": 900}


def _post(server, job_id, body=_LONG):
    """Send a request from another thread; gives the thread, and where its answer will be."""
    answers = []

    def send():
        headers = {"X-Request-Id": job_id}
        answers.append(httpx.post(f"{server.url}/v1/images/generations", json=body, headers=headers, timeout=120))

    thread = threading.Thread(target=send)
    thread.start()
    return thread, answers


def _job(server, job_id):
    return httpx.get(f"{server.url}/v1/jobs/{job_id}").json()


def _runs(server, job_id):
    return _job(server, job_id).get("step", 0) >= 1


def test_delete_ends_a_job_within_a_step(running):
    thread, answers = _post(running, "job-to-cancel")
    wait_until(lambda: _runs(running, "job-to-cancel"))
    twice = httpx.post(
        f"{running.url}/v1/images/generations", json=_LONG, headers={"X-Request-Id": "job-to-cancel"}
    )  # fmt: skip
    assert twice.status_code == 409
    assert twice.json()["error"]["code"] == "job_exists"
    steps = running.state.dispatcher.statistics().steps
    assert httpx.delete(f"{running.url}/v1/jobs/job-to-cancel").status_code == 200
    thread.join(60)
    assert answers[0].status_code == 499
    assert answers[0].json()["error"]["code"] == "cancelled"
    assert answers[0].headers["x-should-retry"] == "false"
    found = _job(running, "job-to-cancel")
    assert found["status"] == "cancelled"
    assert found["step"] < 900
    assert found["total"] == 900
    assert running.state.dispatcher.statistics().steps - steps <= found["step"]


def test_requests_that_come_at_once_do_not_share_an_id(running):
    """A job whose id another one has taken over could not be cancelled."""
    sent = [_post(running, "job-of-several", {"prompt": "x", "num_inference_steps": 60}) for _ in range(6)]
    for thread, _ in sent:
        thread.join(60)
    answers = [answers[0] for _, answers in sent]
    for refused in (one for one in answers if one.status_code != 200):
        assert refused.status_code == 409
        assert refused.json()["error"]["param"] == "X-Request-Id"
    assert len([one for one in answers if one.status_code == 200]) == 1
    again = httpx.post(  # once more, after the others ended: a refused request keeps no id
        f"{running.url}/v1/images/generations", json={"prompt": ""}, headers={"X-Request-Id": "job-of-several"}
    )
    assert again.json()["error"]["param"] == "prompt"


def test_an_error_names_the_lora_and_not_its_path(running, tmp_path, monkeypatch):
    for name in ("empty", "a:b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    monkeypatch.setattr(running.state, "loras", LoraFolder(tmp_path))
    for name in ("empty", "a:b"):
        body = {"prompt": "x", "num_inference_steps": 1, "loras": f"{name}:0.5"}
        error = httpx.post(f"{running.url}/v1/images/generations", json=body, timeout=60).json()["error"]
        assert error["param"] == "loras"
        assert error["message"] == f"loras: {name}.safetensors: is empty; download it again"
    (tmp_path / "empty.safetensors").unlink()
    (tmp_path / "a:b.safetensors").unlink()
    tmp_path.rmdir()
    assert httpx.get(f"{running.url}/v1/models").json()["data"][0]["loras"] == []
    error = httpx.post(f"{running.url}/v1/images/generations", json=body, timeout=60).json()["error"]
    words = "loras: the folder of the operator cannot be read (No such file or directory); leave it out, or tell the"
    assert error["message"].startswith(words)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_job(running, stream):
    before = running.state.dispatcher.statistics().cancelled
    job_id = f"job-that-is-left-{stream}"
    body = json.dumps({**_LONG, "stream": stream}).encode()
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Request-Id: {job_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(head.encode() + body)
        wait_until(lambda: _runs(running, job_id))
    wait_until(lambda: running.state.dispatcher.statistics().cancelled == before + 1)
    wait_until(lambda: _job(running, job_id)["status"] == "cancelled")
    assert _job(running, job_id)["step"] < 900


def test_a_stream_tells_each_step_and_ends_with_the_reason(running):
    lines = []
    with httpx.stream(
        "POST", f"{running.url}/v1/images/generations", json={**_LONG, "stream": True},
        headers={"X-Request-Id": "job-in-a-stream"}, timeout=60,
    ) as answer:  # fmt: skip
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"] == "job-in-a-stream"
        for line in answer.iter_lines():
            lines.append(line)
            if line == ": step 2 of 900":
                httpx.delete(f"{running.url}/v1/jobs/job-in-a-stream")
    assert ": step 1 of 900" in lines
    assert "event: error" in lines
    assert '"code": "cancelled"' in lines[lines.index("event: error") + 1]


def test_a_stream_that_the_end_of_the_server_cuts_says_so(emoji_pipe, caplog):
    with running_server([emoji_pipe]) as running:  # leaves jobs one second to finish
        address = f"{running.url}/v1/images/generations"
        with httpx.stream("POST", address, json={**_LONG, "size": "256x256", "stream": True}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.server.handle_exit(signal.SIGTERM, None)
            found = [line for line in lines if not line.startswith(":") and line]
    assert found[0] == "event: error"
    error = json.loads(found[1].removeprefix("data: "))["error"]
    assert (error["code"], error["message"]) == ("stopping", "the server stopped before this job ended; send it again")
    assert len(found) == 2
    assert not [record for record in caplog.records if record.exc_info]


def test_a_job_that_takes_too_long_is_ended(emoji_pipe):
    with running_server([emoji_pipe], limits=Limits(job_seconds=0.3, drain_seconds=1)) as hasty:
        answer = httpx.post(f"{hasty.url}/v1/images/generations", json=_LONG, timeout=60)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "time_limit"
        assert hasty.state.dispatcher.statistics().timed_out == 1


def test_metrics_count_what_happened(emoji_pipe, model):
    with running_server([emoji_pipe]) as counted:
        client = httpx.Client(base_url=counted.url, timeout=60)
        assert client.post("/v1/images/generations", json={"prompt": "x", "num_inference_steps": 2}).status_code == 200
        assert client.post("/v1/images/generations", json={"prompt": "x", "n": 0}).status_code == 400
        text = client.get("/metrics").text
        client.close()
    found = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["diffoundry_jobs_total", "done"] == 1
    assert found["diffoundry_steps_total",] == 2
    assert found["diffoundry_images_total",] == 1
    assert found["diffoundry_errors_total", "invalid_value"] == 1
    for status in ("200", "400"):
        assert found["diffoundry_http_requests_total", "POST", "/v1/images/generations", status] == 1
    assert found["diffoundry_jobs_queued",] == found["diffoundry_jobs_active",] == 0
    components = {key[1] for key in found if key[0] == "diffoundry_component_seconds_total"}
    assert any(one.endswith("unet") for one in components)
    assert found["process_resident_memory_bytes",] > 10**7


@pytest.mark.slow
def test_loras_are_named_and_belong_to_their_request(exported, tiny_sd_checkpoint, tmp_path):
    """Two models, one with a LoRA of the folder; without it the image is that before."""
    bundle = exported(tiny_sd_checkpoint("sd1"))
    (tmp_path / "loras").mkdir()
    path = random_lora(tiny_sd_checkpoint("sd1"), tmp_path / "loras" / "style.safetensors")
    for name in ("one", "two"):
        shutil.copytree(bundle, tmp_path / f"{name}.bundle")
    body = {"prompt": "a cat", "seed": 0, "num_inference_steps": 2, "size": "64x64"}
    with load(tmp_path / "one.bundle") as one, load(tmp_path / "two.bundle") as two, load(bundle) as pipe:
        with running_server([one, two], loras=tmp_path / "loras") as several:

            def image(**more):
                answer = httpx.post(f"{several.url}/v1/images/generations", json={**body, **more}, timeout=60)
                assert answer.status_code == 200, answer.text
                return base64.b64decode(answer.json()["data"][0]["b64_json"])

            missing = httpx.post(f"{several.url}/v1/images/generations", json=body).json()["error"]
            assert missing["message"] == "model: got none, expected one of one, two"
            plain = image(model="one")
            styled = image(model="one", loras=["style:0.5"])
            assert plain == image(model="one")
            assert _pixels(image(model="two")) == _pixels(plain)
            wrong = httpx.post(f"{several.url}/v1/images/generations", json={**body, "model": "one", "loras": "stile"})
            assert "Did you mean 'style'?" in wrong.json()["error"]["message"]
            listed = httpx.get(f"{several.url}/v1/models").json()["data"]
            assert [(found["id"], found["loras"]) for found in listed] == [("one", ["style"]), ("two", ["style"])]
        arguments = {"seed": 0, "num_inference_steps": 2, "height": 64, "width": 64}
        assert _pixels(plain) == pipe("a cat", **arguments).images[0].tobytes()
        pipe.loras.load(path, scale=0.5)
        assert _pixels(styled) == pipe("a cat", **arguments).images[0].tobytes()
    assert _pixels(plain) != _pixels(styled)


def _pixels(data):
    return Image.open(io.BytesIO(data)).tobytes()

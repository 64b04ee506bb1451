"""`diffoundry serve` as a process: its address, a signal that lets jobs finish, and its log."""

import json
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from running_server import wait_until


@pytest.fixture
def process(exported):
    """The command on a free port; gives the process and its address."""
    command = [sys.executable, "-m", "diffoundry", "serve", str(exported("emoji")), "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--drain-time", "40"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        lines = []
        while not lines or lines[-1].strip() != "}":
            lines.append(started.stdout.readline())
            assert lines[-1], started.stderr.read()
        yield started, json.loads("".join(lines))["url"]
        started.kill()


def _post(url, steps, size, answers):
    body = {"prompt": "x", "num_inference_steps": steps, "size": size}

    def send():
        try:
            answers.append(httpx.post(f"{url}/v1/images/generations", json=body, timeout=120).status_code)
        except httpx.HTTPError as error:
            answers.append(type(error).__name__)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_signal_lets_jobs_finish_and_reports_the_rest(process):
    started, url = process
    wait_until(lambda: _is_ready(url))
    short, long = [], []
    threads = [_post(url, 900, "256x256", long)]
    wait_until(lambda: b"diffoundry_jobs_active 1.0" in httpx.get(f"{url}/metrics").content)
    threads.append(_post(url, 4, "64x64", short))
    wait_until(lambda: b"diffoundry_jobs_active 2.0" in httpx.get(f"{url}/metrics").content)
    started.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    log = [json.loads(line) for line in started.stderr.read().splitlines() if line.startswith("{")]
    assert started.wait(60) == 0
    assert short == [200]
    assert long == [503]
    (stopped,) = [line for line in log if line["event"] == "stopped"]
    assert (stopped["finished"], stopped["cancelled"]) == (1, 1)
    assert next(line["status"] for line in log if line.get("path") == "/v1/images/generations") == 200


def _is_ready(url):
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.ConnectError:
        return False

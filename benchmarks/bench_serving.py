"""Measures `diffoundry serve`: images a minute and latency for 1 to 16 clients, failures, memory.

    python benchmarks/bench_serving.py emoji.bundle --clients 1,2,4,8,16 --seconds 20

The server is a process of its own on this machine, so the clients take a share of its cores. `--against URL` measures
another server of OpenAI's images API in turns with ours: that of stable-diffusion.cpp or OpenVINO Model Server.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Load:
    """The answers of one measurement.

    Attributes:
        clients: Clients at once.
        seconds: Of each answer.
        failures: Answers that were no image, by what they were.
        elapsed: Of the whole measurement.
    """

    clients: int
    seconds: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    elapsed: float = 0.0

    def row(self) -> str:
        """Return a line of the table."""
        times = sorted(self.seconds) or [float("nan")]
        rank = [times[min(len(times) - 1, int(len(times) * part))] for part in (0.5, 0.9, 0.99)]
        rate = 60 * len(self.seconds) / self.elapsed
        shown = "  ".join(f"{one:7.3f}" for one in (statistics.fmean(times), *rank))
        return f"{self.clients:7d}  {len(self.seconds):6d}  {rate:10.1f}  {shown}  {sum(self.failures.values()):8d}"


@contextmanager
def started(bundle: Path, options: list[str]) -> Iterator[str]:
    """Run our server, and give its address."""
    command = [sys.executable, "-m", "diffoundry", "serve", str(bundle), "--port", "0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                sys.exit("the server did not start; run the command alone to see why")
            text += line
        url = str(json.loads(text)["url"])
        while not _is_ready(url):
            time.sleep(0.1)
        try:
            yield url
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/ready").status == 200
    except urllib.error.URLError:
        return False


def measure(url: str, clients: int, seconds: float, body: dict[str, object]) -> Load:
    """Let clients ask one image after the other for some time."""
    found, lock, end = Load(clients), threading.Lock(), time.monotonic() + seconds

    def ask(client: int) -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            data = json.dumps({**body, "seed": 1000 * client + number}).encode()
            request = urllib.request.Request(
                f"{url}/v1/images/generations", data, {"Content-Type": "application/json"}
            )  # fmt: skip
            begun = time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=600) as answer:
                    fault = "" if json.load(answer)["data"][0]["b64_json"] else "no image"
            except urllib.error.HTTPError as error:
                fault = str(error.code)
            except OSError as error:
                fault = type(error).__name__
            with lock:
                if fault:
                    found.failures[fault] = found.failures.get(fault, 0) + 1
                else:
                    found.seconds.append(time.monotonic() - begun)

    begun = time.monotonic()
    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.elapsed = time.monotonic() - begun
    return found


def memory_of(url: str) -> float:
    """Return the resident memory of our server in MB, as its metrics tell it; nan for another."""
    try:
        text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    except urllib.error.URLError:
        return float("nan")
    lines = [line for line in text.splitlines() if line.startswith("process_resident_memory_bytes ")]
    return float(lines[0].split()[1]) / 1e6 if lines else float("nan")


def main() -> None:
    """Print a table for each server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", default="1,2,4,8,16")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--against", metavar="URL", help="another server of OpenAI's images API, already running")
    parser.add_argument("--options", default="", help="more options of diffoundry serve, such as '--no-batching'")
    chosen = parser.parse_args()
    body = {"prompt": "red apple", "size": chosen.size, "num_inference_steps": chosen.steps}
    other = {"prompt": "red apple", "size": chosen.size, "n": 1}
    with started(chosen.bundle, chosen.options.split()) as url:
        print("clients  images  images/min     mean      p50      p90      p99  failures  memory (MB)")
        measure(url, 1, min(chosen.seconds, 5), body)  # the first calls are slower
        for clients in map(int, chosen.clients.split(",")):
            print(f"{measure(url, clients, chosen.seconds, body).row()}  {memory_of(url):11.0f}", flush=True)
            if chosen.against:
                print(f"{measure(chosen.against, clients, chosen.seconds, other).row()}  {chosen.against}", flush=True)


if __name__ == "__main__":
    main()

"""Starts `diffoundry serve` as a process, sends requests from many clients, and reads its processor time and memory."""

import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

__all__ = ["Load", "Resources", "growth", "measure", "resources", "started"]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Memory and processor time of a server.

    Attributes:
        memory: Resident bytes now; nan where the server has no metrics of ours.
        cpu: Seconds of processor time since its start; nan likewise.
    """

    memory: float
    cpu: float


@dataclass(kw_only=True)
class Load:
    """The answers of one measurement.

    Attributes:
        seconds: Of each image.
        failures: Status, or class of the error, of each answer that was no image.
        elapsed: Seconds of the whole measurement.
        cpu: Seconds of the server's processor time.
        memory: Pairs of requests answered so far and resident bytes.
    """

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    elapsed: float = 0.0
    cpu: float = 0.0
    memory: list[tuple[int, float]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images a minute."""
        return 60 * len(self.seconds) / self.elapsed

    def percentile(self, part: float) -> float:
        """Return a percentile of the latency in seconds; nan without images."""
        return float(np.percentile(self.seconds, part)) if self.seconds else float("nan")


@contextmanager
def started(bundle: Path, options: Sequence[str]) -> Iterator[str]:
    """Run our server until the block is left, and give its address once its engines are open."""
    command = [sys.executable, "-m", "diffoundry", "serve", str(bundle), "--port", "0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            lines = [""]
            while lines[-1] != "}\n":  # one JSON object: the address, or an error
                lines.append(process.stdout.readline() if process.stdout else "")
                if not lines[-1]:
                    sys.exit("the server did not start; run the command alone to see why")
            found = json.loads("".join(lines))
            if "url" not in found:
                sys.exit(f"the server did not start: {json.dumps(found)}")
            url = str(found["url"])
            while not _is_ready(url):
                if process.poll() is not None:
                    sys.exit("the server ended while it opened its engines; run the command alone to see why")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready") as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def measure(url: str, clients: int, images: int, body: dict[str, object], watch: int = 0) -> Load:
    """Let clients ask for one image after another until there are enough.

    Args:
        url: Address of the server.
        clients: Clients at once.
        images: Requests of all together.
        body: Of each request, without seed.
        watch: Requests between two looks at the server's memory; 0 for none.
    """
    found, lock, numbers = Load(), threading.Lock(), count()

    def ask() -> None:
        while True:
            with lock:
                number = next(numbers)
            if number >= images:
                return
            begun = time.monotonic()
            fault = _ask(url, {**body, "seed": number})
            with lock:
                if fault:
                    found.failures.append(fault)
                else:
                    found.seconds.append(time.monotonic() - begun)
                answered = len(found.seconds) + len(found.failures)
            if watch and answered % watch == 0:
                found.memory.append((answered, resources(url).memory))

    before, begun = resources(url).cpu, time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.elapsed = time.monotonic() - begun
    found.cpu = resources(url).cpu - before
    return found


def _ask(url: str, body: dict[str, object]) -> str:
    """Ask for one image; return the fault, or ""."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/images/generations", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return "" if json.load(answer)["data"][0]["b64_json"] else "no image"
    except urllib.error.HTTPError as error:
        return str(error.code)
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        return type(error).__name__


def resources(url: str) -> Resources:
    """Return memory and processor time of our server, as its metrics tell them."""
    try:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
    except urllib.error.URLError:
        lines = []
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("process_"))
    nan = float("nan")
    return Resources(
        memory=float(values.get("process_resident_memory_bytes", nan)),
        cpu=float(values.get("process_cpu_seconds_total", nan)),
    )


def growth(memory: Sequence[tuple[int, float]]) -> float:
    """Return the slope of memory over the later half of the requests in bytes a request; nan for too few points."""
    late = sorted(memory)[len(memory) // 2 :]
    if len(late) < 3:
        return float("nan")
    return float(np.polyfit([point[0] for point in late], [point[1] for point in late], 1)[0])

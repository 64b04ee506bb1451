"""Measures 1 to 16 clients of a dispatcher against one: images a minute and latency.

python benchmarks/bench_requests.py BUNDLE [--target onnxruntime] [--steps 20] [--clients 1,2,4,8,16] [--images 16]
    [--rounds 3] [--ways joined,alone,direct] [--threads 2] [--json FILE]

Each client asks for one image after another. In every round all numbers of clients take turns: with joined calls, with
each call made "alone", and "direct", as many threads that call the pipeline without a dispatcher. Ratios are those to
the first number of clients in the same round; the median of the rounds is printed. Each measurement makes --images
images at most.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from lib.interleaved import machine

from diffoundry.runtime import load
from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.runtime.pipelines.base import PipelineBase

PROMPTS = ("a red apple", "a cat face", "a rocket", "a pizza", "a house", "a red heart")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--clients", default="1,2,4,8,16")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default="joined,alone,direct")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    counts = [int(text) for text in asked.clients.split(",")]
    rows: dict[str, list[dict[str, float]]] = {}
    with load(asked.bundle, target=asked.target, threads=asked.threads) as pipe:
        pipe("a red apple", num_inference_steps=1)
        for _ in range(asked.rounds):
            for clients in counts:
                for name in asked.ways.split(","):
                    measured = measure(pipe, name, clients, asked.images, asked.steps)
                    rows.setdefault(f"{clients} {name}", []).append(measured)
    result = summarize(rows, counts)
    for name, row in result.items():
        print(name, " ".join(f"{key}={value:.3g}" for key, value in row.items()))
    if asked.json:
        text = {"machine": machine(), "steps": asked.steps, "images": asked.images, "clients": result}
        asked.json.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def measure(pipe: PipelineBase, name: str, clients: int, images: int, steps: int) -> dict[str, float]:
    """Return images a minute, percentiles of the latency in seconds, and rows to a call of the denoiser."""
    if name == "direct":
        return {**run_clients(lambda call: pipe(**call), clients, images, steps), "rows": 2.0}
    with Dispatcher(max_active=16, max_rows=32, batching=name == "joined") as dispatcher:
        found = run_clients(lambda call: dispatcher.submit(pipe, call).result(), clients, images, steps)
        component = dispatcher.statistics().components[f"{pipe.bundle_name}/{pipe.denoiser.component}"]
        return {**found, "rows": component.rows / component.calls}


def run_clients(
    generate: Callable[[dict[str, object]], object], clients: int, images: int, steps: int
) -> dict[str, float]:
    """Let every client ask for its share of the images, one after another."""
    seconds: list[float] = []
    share = max(images // clients, 1)

    def ask(client: int) -> None:
        for index in range(share):
            seed = client * share + index
            begun = time.perf_counter()
            generate({"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed, "num_inference_steps": steps})
            seconds.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    minutes = (time.perf_counter() - begun) / 60
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"images a minute": len(seconds) / minutes, "p50": float(p50), "p95": float(p95)}


def summarize(rows: dict[str, list[dict[str, float]]], counts: list[int]) -> dict[str, dict[str, float]]:
    """Return the medians, with the ratio to one client of the same round."""
    first = next(name for name in rows if name.startswith(f"{counts[0]} "))
    base = [one["images a minute"] for one in rows[first]]
    result = {}
    for name, measured in rows.items():
        ratios = [one["images a minute"] / other for one, other in zip(measured, base, strict=True)]
        result[name] = {key: median(one[key] for one in measured) for key in measured[0]} | {"ratio": median(ratios)}
    return result


if __name__ == "__main__":
    main()

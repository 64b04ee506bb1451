"""Measures loading, switching, scaling and unloading a LoRA against reloading the bundle.

python benchmarks/bench_lora.py BUNDLE [--target T] [--precision P] [--rank 16] [--layers attention|projections|all]
    [--rounds 5] [--height H --width W] [--threads N] [--json FILE]

Two random LoRAs of that rank are made for the layers of the bundle. Every row is the median over rounds, and its ratio
to the reload: open the bundle, check its sums, open the engines that a LoRA changes. "generate" is one text encoding
and one guided step. Adapter changes are measured until the next call could begin: "first load" opens the adaptable
graph, "switch" is from one LoRA to another, "off" and "on" unload the only one and load it again. --no-hold holds one
form at a time.
"""

import argparse
import json
import re
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.runtime import EngineOptions, load
from diffoundry.runtime.bench.machine import machine_facts, peak_rss

_LAYERS = {
    "attention": r"(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)$",
    "projections": r"(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.\d.*|[qkv]_proj|out_proj|fc[12])$",
    "all": r".",
}
_COMPONENTS = ("text_encoder", "unet")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--precision")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", choices=_LAYERS, default="projections")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--hold", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = _measure(asked, Path(folder))
    reload_ = report["seconds"]["reload"]
    print(f"{machine_facts().cpu}; {report['engine']}, rank {asked.rank}, {asked.layers}, hold {asked.hold}")
    print(f"peak memory {report['peak_rss_bytes'] / 1e9:.1f} GB")
    print(f"{'':<12}{'median s':>10}{'of reload':>11}")
    for name, seconds in report["seconds"].items():
        print(f"{name:<12}{seconds:>10.4f}{seconds / reload_:>11.3f}")
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _generate(pipe: Any, asked: argparse.Namespace) -> None:
    size = {key: value for key in ("height", "width") if (value := getattr(asked, key))}
    pipe("a", num_inference_steps=1, output_type="latent", seed=0, **size)


def _settle(pipe: Any) -> None:
    """Run all work that was deferred to the next call of an engine."""
    for name in _COMPONENTS:
        pipe.session.engine(name)


def _on(pipe: Any, path: Path) -> None:
    pipe.loras.load(path)
    _settle(pipe)


def _off(pipe: Any) -> None:
    pipe.loras.unload()
    _settle(pipe)


def _switch(pipe: Any, path: Path) -> None:
    """Switch from the loaded LoRA to another."""
    pipe.loras.unload()
    _on(pipe, path)


def _write_lora(pipe: Any, asked: argparse.Namespace, path: Path, seed: int) -> Path:
    """Write a random LoRA in PEFT's names and fp16, for the layers of the bundle."""
    random = np.random.default_rng(seed)
    header: dict[str, Any] = {}
    end = 0
    with tempfile.TemporaryFile() as data:
        for component in _COMPONENTS:
            for layer, shape in pipe.session.adapters(component).layers.items():
                if not re.search(_LAYERS[asked.layers], layer):
                    continue
                sizes = {"A": (asked.rank, *shape[1:]), "B": (shape[0], asked.rank, *(1 for _ in shape[2:]))}
                for factor, sides in sizes.items():
                    array = (random.standard_normal(sides, np.float32) * 0.01).astype("<f2")
                    data.write(array.tobytes())
                    name = f"{component}.{layer}.lora_{factor}.weight"
                    header[name] = {"dtype": "F16", "shape": sides, "data_offsets": [end, end + array.nbytes]}
                    end += array.nbytes
        data.seek(0)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data.read())
    return path


def _measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    options = EngineOptions(threads=asked.threads, keep_both=asked.hold)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = work(*arguments)
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    def reload_() -> Any:
        pipe = load(asked.bundle, target=asked.target, precision=asked.precision, options=options)
        _settle(pipe)
        return pipe

    files: list[Path] = []
    for _ in range(asked.rounds):
        pipe = timed("reload", reload_)
        files = files or [_write_lora(pipe, asked, folder / f"{name}.safetensors", name) for name in (0, 1)]
        _generate(pipe, asked)
        timed("generate", _generate, pipe, asked)
        timed("first load", _on, pipe, files[0])
        _generate(pipe, asked)
        timed("generate, LoRA", _generate, pipe, asked)
        for path in (files[1], files[0], files[1]):
            timed("switch", _switch, pipe, path)
            timed("scale", pipe.loras.set_scale, 0.5)
        for path in files:
            timed("off", _off, pipe)
            timed("on", _on, pipe, path)
        _generate(pipe, asked)
        pipe.session.close()
    choice = pipe.session.choice("unet")
    return {
        "engine": f"{choice.spec.target} {choice.spec.precision}" if choice else "onnxruntime",
        "rank": asked.rank,
        "layers": asked.layers,
        "hold": asked.hold,
        "peak_rss_bytes": peak_rss(),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
    }


if __name__ == "__main__":
    main()

"""Compares our int8 with NNCF's and ONNX Runtime's on the same engine: quality, speed and size.

python benchmarks/bench_quantization.py --bundle DIR [--engine openvino] [--engine onnxruntime] [--hint f32|bf16]
    [--folder DIR] [--calls 64] [--rounds 41] [--size 64] [--threads 2] [--speed-only] [--json FILE]

DIR holds fp32 and int8 for the engines, as of

    diffoundry export --model emoji --target onnxruntime,openvino --precision fp32,int8 -o DIR

The other tools start from the fp32 graph that the target lowered, so that only the quantization differs, and see calls
of the same prompts. Quality is the PSNR of the held-out images against those of the fp32 engine. Speed is that
of one guided call of the UNet and of one image of the VAE, all rows interleaved in one process, medians. With
`--speed-only` the calls are random and no image is generated, for random weights.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lib.quantization_engines import OPENERS
from lib.quantization_tools import TOOLS

from diffoundry.calibration.prompts import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS, seeded_prompts
from diffoundry.calibration.quality import judge, mean_square
from diffoundry.exporter.calibrate.engine_proxies import FixedEngines
from diffoundry.exporter.calibrate.generation_tasks import PromptTask
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import EngineSpec

COMPONENTS = ("text_encoder", "unet", "vae_decoder")

Graphs = Mapping[str, Path]
"""Component to its graph."""

Calls = Mapping[str, Sequence[Mapping[str, np.ndarray]]]
"""Component to feeds of some of its calls."""


def main() -> None:
    """Quantize with every tool, generate, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--engine", action="append", choices=list(TOOLS))
    parser.add_argument("--hint", default="f32", help="floats of OpenVINO: f32 or bf16")
    parser.add_argument("--folder", type=Path, default=Path("bench-quantization"))
    parser.add_argument("--calls", type=int, default=64, help="calls of the UNet that the other tools receive")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--size", type=int, default=64, help="pixels, for speed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    tables = {name: EngineTable(Bundle(asked.bundle), name, asked).table() for name in asked.engine or list(TOOLS)}
    for name, table in tables.items():
        print(f"\n{name}\n\n{markdown(table)}")
    if asked.json:
        asked.json.write_text(json.dumps(tables, indent=2))


class EngineTable:
    """Compares all rows on one engine."""

    def __init__(self, bundle: Bundle, engine: str, asked: argparse.Namespace) -> None:
        """Quantize with the other tools unless their graphs exist."""
        self._bundle, self._engine, self._asked = bundle, engine, asked
        self._rows = {"fp32": self._own("fp32"), "ours": self._own("int8")}
        calls: Calls | None = None
        for tool, make in TOOLS[engine].items():
            graphs = {
                name: asked.folder / engine / tool / name / path.name for name, path in self._rows["fp32"].items()
            }
            for name, path in graphs.items():
                if not path.is_file():
                    calls = calls or (self._random_calls() if asked.speed_only else self._real_calls())
                    path.parent.mkdir(parents=True, exist_ok=True)
                    make(self._rows["fp32"][name], path, calls[name], name)
            self._rows[tool] = graphs

    def _own(self, precision: str) -> Graphs:
        return {name: self._bundle.file(self._spec(name, precision).files[0]) for name in COMPONENTS}

    def _spec(self, component: str, precision: str = "fp32") -> EngineSpec:
        specs = self._bundle.engines(component)
        return next(spec for spec in specs if (spec.target, spec.precision) == (self._engine, precision))

    def table(self) -> list[dict[str, Any]]:
        """Build one entry per row."""
        speeds = self._speeds()
        table = [
            {"row": row, "bytes": sum(map(_size, graphs.values()))} | speeds[row] for row, graphs in self._rows.items()
        ]
        if not self._asked.speed_only:
            fp32 = self._rows["fp32"]
            reference = self._generate(fp32)
            for entry in table[1:]:
                graphs = self._rows[entry["row"]]
                entry.update(_quality("", self._generate(graphs), reference))
                entry.update(_quality("unet_", self._generate({**fp32, "unet": graphs["unet"]}), reference))
        return table

    def _generate(self, graphs: Graphs) -> np.ndarray:
        engines = {name: self._open(name, path) for name, path in graphs.items()}
        components, prompts = FixedEngines(self._bundle, engines), seeded_prompts(HELD_OUT_PROMPTS, held_out=True)
        return np.concatenate(
            [PromptTask().generate(components, prompts[i : i + 4]) for i in range(0, len(prompts), 4)]
        )

    def _open(self, component: str, path: Path, feeds: Mapping[str, np.ndarray] | None = None) -> Any:
        return OPENERS[self._engine](path, self._spec(component), self._asked.threads, self._asked.hint, feeds)

    def _real_calls(self) -> Calls:
        """Record calls of the fp32 pipeline on the calibration prompts: of the UNet a sample of all steps."""
        seen: dict[str, list[Mapping[str, np.ndarray]]] = {name: [] for name in COMPONENTS}
        components = FixedEngines(
            self._bundle, {name: self._open(name, path) for name, path in self._rows["fp32"].items()}
        )
        components.on_call = lambda name, feeds, _outputs, _seconds: seen[name].append(dict(feeds))
        for prompt in seeded_prompts(CALIBRATION_PROMPTS):
            PromptTask().generate(components, [prompt])
        chosen = np.random.default_rng(0).permutation(len(seen["unet"]))[: self._asked.calls]
        return seen | {"unet": [seen["unet"][i] for i in sorted(chosen)]}

    def _random_calls(self) -> Calls:
        return {name: [self._random_feeds(name)] for name in COMPONENTS}

    def _random_feeds(self, component: str) -> dict[str, np.ndarray]:
        """Make a guided call of the UNet, or one image."""
        latent, rng = self._asked.size // 8, np.random.default_rng(0)
        sizes = {"batch": 1 if component == "vae_decoder" else 2, "sequence": 77}
        sizes |= {"height/8": latent, "width/8": latent}
        feeds = {}
        for spec in self._spec(component).inputs:
            shape = [sizes.get(str(size), size) for size in spec.shape]
            feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        if "timestep" in feeds:
            feeds["timestep"][:] = 500
        if "input_ids" in feeds:
            feeds["input_ids"][:] = 3
        return feeds

    def _speeds(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {row: {} for row in self._rows}
        for component in ("unet", "vae_decoder"):
            feeds = self._random_feeds(component)
            engines = {row: self._open(component, graphs[component], feeds) for row, graphs in self._rows.items()}
            seconds: dict[str, list[float]] = {row: [] for row in engines}
            for round_ in range(self._asked.rounds + 2):
                for row, engine in engines.items():
                    start = time.perf_counter()
                    engine.run(feeds)
                    if round_ > 1:
                        seconds[row].append(time.perf_counter() - start)
            for row, measured in seconds.items():
                found[row][component] = statistics.median(measured)
        return found


def _size(graph: Path) -> int:
    """Bytes of a graph and its weights."""
    import onnx_ir as ir

    if graph.suffix == ".xml":
        return graph.stat().st_size + graph.with_suffix(".bin").stat().st_size
    tensors = [value.const_value for value in ir.load(graph).graph.initializers.values()]
    outside = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, ir.ExternalTensor))
    return graph.stat().st_size + outside


def _quality(prefix: str, images: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    quality = judge(mean_square(images, reference))
    return {f"{prefix}psnr": quality.mean, f"{prefix}worst": quality.worst}


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Format the table, speeds as multiples of fp32's."""
    lines = [
        "| | PSNR, dB (worst) | UNet alone, dB (worst) | UNet call, ms (x fp32) | VAE, ms (x fp32) | MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for entry in table:
        quality = [
            f"{entry[f'{p}psnr']:.1f} ({entry[f'{p}worst']:.1f})" if f"{p}psnr" in entry else "" for p in ("", "unet_")
        ]
        speeds = [f"{entry[c] * 1e3:.2f} ({table[0][c] / entry[c]:.2f})" for c in ("unet", "vae_decoder")]
        size = f"{entry['bytes'] / 1e6:.1f}"
        lines.append(f"| {' | '.join([entry['row'], *quality, *speeds, size])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

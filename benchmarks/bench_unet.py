"""Measures one guided UNet call at full size: our engines against every other way to run the network, interleaved.

python benchmarks/bench_unet.py BUNDLE [--model sd15] [--size 512] [--batch 2] [--rounds 3] [--only NAME ...]
    [--apart] [--folder DIR] [--json FILE]

BUNDLE is made with `diffoundry export --model sd15 --random-weights --target openvino --precision bf16,fp32`. Ratios
are a row's median over ours at the same precision: above 1 ours is faster. The error is the RMS of the difference to
PyTorch fp32 over the RMS of its output. The floor is the call's arithmetic at the rate that a large matrix product
reaches in the same library and precision.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lib.baselines import plain_graph
from lib.interleaved import BenchmarkRow, Result, machine, run_in_turns

from diffoundry.runtime.bundle.bundle import Bundle

TERA_OPERATIONS = {("sd15", 512, 2): 1.354}
"""Multiplications and additions of one call, counted by torch.utils.flop_counter."""

_REFERENCE = "PyTorch fp32"


def main() -> None:
    """Run all candidates in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--model", default="sd15")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="Names of rows, as the table has them.")
    parser.add_argument("--apart", action="store_true", help="One candidate in memory at a time.")
    parser.add_argument("--folder", type=Path, default=Path("bench-plain"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    candidates = _candidates(asked)
    results = run_in_turns(
        candidates, asked.rounds, lambda line: print(line, file=sys.stderr), together=not asked.apart
    )
    report = _report(results, asked)
    _print(report)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _report_line(line: str) -> None:
    print(line, file=sys.stderr)


def _candidates(asked: argparse.Namespace) -> list[BenchmarkRow]:
    bundle = Bundle(asked.bundle)
    assert bundle.manifest is not None, f"{asked.bundle} has no manifest"
    random = "random_weights_seed" in bundle.manifest.recipe.source
    work = {"size": asked.size, "batch": asked.batch}
    rows = [
        BenchmarkRow(
            name=f"diffoundry {spec.target} {spec.precision}",
            opener="lib.baselines:our_unet",
            options={"bundle": str(asked.bundle), "target": spec.target, "precision": spec.precision, **work},
        )
        for spec in bundle.engines("unet")
        if spec.pending is None
    ]
    plain = {"config": dict(bundle.config("unet")), "graph": "", **work}
    rows += [
        BenchmarkRow(
            name=f"plain graph, OpenVINO {kind}",
            opener="lib.baselines:openvino_unet",
            options={"precision": kind, **plain},
        )
        for kind in ("bf16", "fp32")
    ]
    rows.append(
        BenchmarkRow(name="plain graph, ONNX Runtime fp32", opener="lib.baselines:onnxruntime_unet", options=plain)
    )
    torch = {"model": asked.model, "random_weights": random, **work}
    kinds = {"bf16": ("bfloat16", True), "fp32": ("float32", False)}
    rows += [
        BenchmarkRow(
            name=f"PyTorch {kind}{', channels last' if last else ''}",
            opener="lib.baselines:torch_unet",
            options={"dtype": dtype, "channels_last": last, **torch},
        )
        for kind, (dtype, last) in kinds.items()
    ]
    rows = [row for row in rows if not asked.only or row.name in asked.only]
    if any("graph" in row.options for row in rows):  # made only when needed: it is as large as the UNet
        graph = str(plain_graph(asked.model, random_weights=random, folder=asked.folder, **work))
        rows = [
            replace(row, options={**row.options, "graph": graph}) if "graph" in row.options else row for row in rows
        ]
    return rows


def _report(results: dict[str, Result], asked: argparse.Namespace) -> dict[str, Any]:
    reference = results[_REFERENCE].value if _REFERENCE in results else None
    operations = TERA_OPERATIONS.get((asked.model, asked.size, asked.batch))
    rows = {}
    for name, result in results.items():
        if result.fault is not None or not result.seconds:
            rows[name] = {"fault": result.fault or "not measured"}
            continue
        error = None if reference is None else _rms(result.value - reference) / _rms(reference)
        rate = None if operations is None else operations / result.median
        rows[name] = {
            "seconds": result.median,
            "load": result.load,
            "first": result.first,
            "peak_rss": result.peak_rss,
            "error": error,
            "tera_operations_a_second": rate,
            **result.facts,
        }
    return {
        "machine": machine(),
        "model": asked.model,
        "size": asked.size,
        "batch": asked.batch,
        "rounds": asked.rounds,
        "matmul_tera_operations_a_second": {kind: _matmul_rate(kind) for kind in ("f32", "bf16")},
        "rows": rows,
    }


def _matmul_rate(kind: str) -> float:
    """TFLOP/s of a large matrix product in OpenVINO, from which the floor is computed."""
    import openvino as ov
    from openvino import opset13 as ops

    size = 2048
    left = ops.parameter([size, size], ov.Type.f32)
    right = ops.constant(np.random.default_rng(0).standard_normal((size, size), dtype=np.float32))
    hint = {"INFERENCE_PRECISION_HINT": getattr(ov.Type, kind)}
    model = ov.Model([ops.matmul(left, right, False, False)], [left])
    request = ov.Core().compile_model(model, "CPU", hint).create_infer_request()
    feed = np.random.default_rng(1).standard_normal((size, size), dtype=np.float32)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        request.infer([feed])
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e12


def _rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def _print(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; {report['model']}, {report['size']} pixels, batch {report['batch']}")
    print(f"matrix product: {report['matmul_tera_operations_a_second']} TFLOP/s")
    rows = report["rows"]
    print(f"{'':<40}{'s':>8}{'load s':>8}{'peak GB':>9}{'error':>10}{'TFLOP/s':>9}")
    for name, row in rows.items():
        if "fault" in row:
            print(f"{name:<40} {row['fault']}")
            continue
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        rate = "" if row["tera_operations_a_second"] is None else f"{row['tera_operations_a_second']:.2f}"
        print(f"{name:<40}{row['seconds']:>8.3f}{row['load']:>8.1f}{row['peak_rss'] / 1e9:>9.2f}{error:>10}{rate:>9}")
    ours = {name: row for name, row in rows.items() if name.startswith("diffoundry") and "fault" not in row}
    for name, row in ours.items():
        ratios = {
            other: rows[other]["seconds"] / row["seconds"]
            for other in rows
            if other != name and "fault" not in rows[other]
        }
        print(f"{name}: " + ", ".join(f"{ratio:.2f} x {other}" for other, ratio in ratios.items()))


if __name__ == "__main__":
    main()

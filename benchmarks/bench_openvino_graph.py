"""Measures each rewrite of the openvino target: one UNet call, with one more rewrite from row to row.

python benchmarks/bench_openvino_graph.py GRAPH [--traced GRAPH] [--precision bf16] [--size 512] [--batch 2] [--dynamic]
    [--rounds 3] [--only ROW ...] [--json FILE]

GRAPH is the portable graph of a bundle, `<bundle>/unet/model.onnx`; --traced adds the plain graph that
`torch.onnx.export` gives as a row (`bench_unet.py` makes one). The rows take turns, one in memory at a time, each in a
process of its own. Seconds are medians of every call but each process's first. The table adds where they go,
by OpenVINO's own counters, and the floor: the call's arithmetic at the rate of the fastest large product or convolution
in the same library.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_unet import TERA_OPERATIONS
from lib.baselines import unet_feeds
from lib.interleaved import BenchmarkRow, Result, machine, run_in_turns

ROWS = ("traced", "portable", "gated", "heads", "time", "upsampling", "native", "winograd")
"""From `gated` on, each row has the rewrites of the rows before it."""

_SKIPPED = {"bf16": {"winograd"}, "fp32": {"heads"}}
"""List the rewrites that a precision does not use."""

_CALLS = 3
"""Calls per turn; the median counts."""

_HINTS = {"bf16": "bf16", "fp32": "f32"}


def main() -> None:
    """Run the rows in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--traced", type=Path)
    parser.add_argument("--precision", choices=sorted(_HINTS), default="bf16")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=ROWS)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = [row for row in ROWS if row not in _SKIPPED[asked.precision] and (row != "traced" or asked.traced)]
    work = {name: getattr(asked, name) for name in ("precision", "size", "batch", "dynamic")}
    candidates = [
        BenchmarkRow(
            name=row,
            opener="bench_openvino_graph:open_row",
            options={"graph": str(asked.traced if row == "traced" else asked.graph), "row": row, **work},
        )
        for row in rows
        if not asked.only or row in asked.only
    ]
    results = run_in_turns(candidates, asked.rounds, lambda line: print(line, file=sys.stderr), together=False)
    rates = measure_rates(asked.precision)
    report = {"machine": machine(), **work, "tera_operations_a_second": rates, "rows": _table(results)}
    report["floor"] = TERA_OPERATIONS.get(("sd15", asked.size, asked.batch), 0.0) / max(rates.values())
    _print(report)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def open_row(
    graph: str, row: str, precision: str, size: int, batch: int, dynamic: bool
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Compile one row; its calls return the output and the milliseconds of every type of layer."""
    from diffoundry.targets.openvino.import_openvino import ov
    from diffoundry.targets.openvino.run.devices import core

    model = ov.convert_model(graph)
    text = next(parameter for parameter in model.inputs if "encoder_hidden_states" in parameter.get_names())
    feeds = unet_feeds({"cross_attention_dim": text.get_partial_shape()[2].get_length()}, size, batch)
    facts = _rewrite(model, row, precision, feeds, dynamic=dynamic)
    settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERF_COUNT": True}
    request = core().compile_model(model, "CPU", settings).create_infer_request()

    def call() -> tuple[float, Any]:
        spent = []
        for _ in range(_CALLS):
            start = time.perf_counter()
            request.infer(feeds, share_inputs=True, share_outputs=True)
            spent.append(time.perf_counter() - start)
        seconds = statistics.median(spent)
        layers: Counter[str] = Counter()
        for layer in request.profiling_info:
            layers[layer.node_type] += layer.real_time.total_seconds() * 1e3
        return seconds, (request.get_output_tensor(0).data.copy(), dict(layers))

    return call, facts


def _rewrite(model: Any, row: str, precision: str, feeds: dict[str, np.ndarray], *, dynamic: bool) -> dict[str, int]:
    """Apply the rewrites up to `row`, and return the number of matches of each."""
    from diffoundry.runtime.native import attention_library
    from diffoundry.targets.openvino import rewrites
    from diffoundry.targets.openvino.run.devices import add_extension
    from diffoundry.targets.openvino.run.native_attention import use_native_attention
    from diffoundry.targets.openvino.run.winograd import use_winograd

    shapes = {name: list(array.shape) for name, array in feeds.items()}
    judged = None
    if not dynamic:
        model.reshape(shapes)
    library = attention_library()
    if library is not None:
        add_extension(library)
    doubling = [node.get_friendly_name() for node in model.get_ops() if node.get_type_name() == "Interpolate"]
    steps: dict[str, Callable[[], int]] = {
        "gated": lambda: rewrites.split_linears(model),
        "heads": lambda: rewrites.widen_heads(model),
        "time": lambda: rewrites.share_time_embedding(model) + rewrites.join_linears(model),
        "upsampling": lambda: rewrites.merge_upsampling(model, doubling),
        "native": lambda: 0 if library is None else use_native_attention(model, library, floats=precision),
        "winograd": lambda: use_winograd(model, judged or model),
    }
    found = {}
    for name in ROWS[2 : ROWS.index(row) + 1]:
        if name not in _SKIPPED[precision]:
            if name == "winograd" and dynamic:
                judged = model.clone()
                judged.reshape(shapes)
            found[name] = steps[name]()
            model.validate_nodes_and_infer_types()
    return found


def measure_rates(precision: str) -> dict[str, float]:
    """Measure tera-operations per second of a large product and a large 3 x 3 convolution, best of several calls."""
    from diffoundry.targets.openvino.import_openvino import ops, ov
    from diffoundry.targets.openvino.run.devices import core

    generator = np.random.default_rng(0)
    product, map_ = ops.parameter([4096, 2048], np.float32), ops.parameter([2, 320, 64, 64], np.float32)
    weights = [generator.standard_normal(shape, dtype=np.float32) for shape in ((2048, 2048), (320, 320, 3, 3))]
    models = {
        "product of 4096 x 2048 x 2048": (
            ov.Model([ops.matmul(product, ops.constant(weights[0]), False, True)], [product]),
            4096 * 2048 * 2048,
        ),
        "3 x 3 convolution, 320 channels of 64 x 64": (
            ov.Model([ops.convolution(map_, ops.constant(weights[1]), [1, 1], [1, 1], [1, 1], [1, 1])], [map_]),
            2 * 64 * 64 * 9 * 320 * 320,
        ),
    }
    rates = {}
    for name, (model, products) in models.items():
        settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERF_COUNT": True}
        request = core().compile_model(model, "CPU", settings).create_infer_request()
        kinds = ("FullyConnected", "Convolution")
        best = min(_seconds(request, kinds) for _ in range(9))
        rates[name] = 2 * products / best / 1e12
    return rates


def _seconds(request: Any, kinds: tuple[str, ...]) -> float:
    request.infer()
    return sum(layer.real_time.total_seconds() for layer in request.profiling_info if layer.node_type in kinds)


def _table(results: dict[str, Result]) -> list[dict[str, Any]]:
    first = next(iter(results.values()))
    portable = results.get("portable", first)
    reference = first.value[0].astype(np.float64)
    table = []
    for name, result in results.items():
        output, layers = result.value
        table.append(
            {
                "row": name,
                "seconds": result.median,
                "fastest": min(result.seconds),
                "of_first": first.median / result.median,
                "of_portable": portable.median / result.median,
                "difference": float(np.sqrt(np.mean((output - reference) ** 2) / np.mean(reference**2))),
                "found": result.facts,
                "peak_rss": result.peak_rss,
                "milliseconds": {kind: round(spent, 1) for kind, spent in Counter(layers).most_common() if spent > 0.5},
            }
        )
    return table


def _print(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; {report['precision']}, {report['size']} x {report['size']}, batch {report['batch']}")
    rates = ", ".join(f"{name}: {rate:.2f}" for name, rate in report["tera_operations_a_second"].items())
    print(f"TFLOP/s: {rates}; floor {report['floor']:.2f} s\n")
    print("| row | seconds | times as fast as the first | as portable | difference | where it goes, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in report["rows"]:
        spent = ", ".join(f"{kind} {value:.0f}" for kind, value in list(row["milliseconds"].items())[:7])
        print(
            f"| {row['row']} | {row['seconds']:.3f} | {row['of_first']:.2f} | {row['of_portable']:.2f} "
            f"| {row['difference']:.1e} | {spent} |"
        )


if __name__ == "__main__":
    main()

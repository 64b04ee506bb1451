"""Measures one attention in our kernel, OpenVINO, PyTorch and ONNX Runtime, interleaved: milliseconds and ratios.

python benchmarks/bench_native_attention.py [--case 4096x4096x8x40 ...] [--batch 2] [--rounds 9] [--threads 2]
    [--json FILE]

A case is queries x keys x heads x width of a head. What counts is everything between the projections of query, key and
value and the projection of the output. OpenVINO runs with static shapes and its own counters: every node of the
graph except the projections counts, with transposes and conversions around the attention; "native" is the same graph
after `use_native_attention`. PyTorch is `scaled_dot_product_attention` on (batch, tokens, heads * width)
tensors as diffusers calls it, ONNX Runtime `com.microsoft.MultiHeadAttention`. "native avx2" is the kernel alone on a
path that this machine would not choose. Medians over the rounds; every candidate is a process of its own.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lib.interleaved import BenchmarkRow, Result, machine, run_in_turns

CASES = (
    *("4096x4096x8x40", "1024x1024x8x80", "256x256x8x160", "64x64x8x160"),  # SD 1.5 at 512 x 512
    *("4096x77x8x40", "1024x77x8x80", "256x77x8x160"),
    *("4096x4096x10x64", "1024x1024x20x64"),  # SDXL at 1024 x 1024
)
ROWS = {
    "native bf16": ("openvino", {"precision": "bf16", "native": True}),
    "OpenVINO bf16": ("openvino", {"precision": "bf16", "native": False}),
    "PyTorch bf16": ("pytorch", {"precision": "bf16"}),
    "native fp32": ("openvino", {"precision": "fp32", "native": True}),
    "OpenVINO fp32": ("openvino", {"precision": "fp32", "native": False}),
    "PyTorch fp32": ("pytorch", {"precision": "fp32"}),
    "ONNX Runtime fp32": ("onnxruntime", {}),
    "native avx2": ("kernel", {"path": "avx2"}),
}
Opened = tuple[Callable[[], Any], dict[str, Any]]


def main() -> None:
    """Measure every case, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    table = []
    for case in asked.case or CASES:
        queries, keys, heads, width = (int(size) for size in case.split("x"))
        sizes = {"batch": asked.batch, "queries": queries, "keys": keys, "heads": heads, "width": width}
        sizes["threads"] = asked.threads
        candidates = [
            BenchmarkRow(name=name, opener=f"bench_native_attention:{opener}", options={**sizes, **options})
            for name, (opener, options) in ROWS.items()
        ]
        results = run_in_turns(candidates, asked.rounds, lambda line: print(line, file=sys.stderr))
        table.append({"case": case, "milliseconds": {name: _milliseconds(result) for name, result in results.items()}})
    print(f"{machine()}; batch {asked.batch}, {asked.threads} threads; milliseconds\n")
    print(_markdown(table))
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rounds": asked.rounds, "cases": table}, indent=2))


def openvino(
    *, batch: int, queries: int, keys: int, heads: int, width: int, precision: str, native: bool, threads: int
) -> Opened:
    """Open attention between its projections, as in a UNet."""
    from diffoundry.runtime.native import attention_library
    from diffoundry.targets.openvino.import_openvino import ov
    from diffoundry.targets.openvino.run.native_attention import use_native_attention

    core, model = ov.Core(), _graph(batch, queries, keys, heads, width)
    if native:
        library = attention_library()
        if library is None:
            raise RuntimeError("the native attention kernel is not built: make native")
        core.add_extension(str(library))
        if use_native_attention(model, library, floats=precision) != 1:
            raise RuntimeError("the attention of the benchmark's graph was not replaced")
    hint = {"fp32": "f32"}.get(precision, precision)
    options = {"INFERENCE_PRECISION_HINT": hint, "PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    feeds = [_random(batch, length, heads * width) for length in (queries, keys)]

    def call() -> tuple[float, None]:
        request.infer(feeds)
        nodes = [node for node in request.profiling_info if node.node_type != "FullyConnected"]
        return sum(node.real_time.total_seconds() for node in nodes if not node.node_name.startswith("input")), None

    return call, {"version": ov.get_version()}


def _graph(batch: int, queries: int, keys: int, heads: int, width: int) -> Any:
    from diffoundry.targets.openvino.import_openvino import ops, ov

    rng, channels = np.random.default_rng(0), heads * width
    x, context = (
        ops.parameter([batch, length, channels], np.float32, name=f"input{index}")
        for index, length in enumerate((queries, keys))
    )

    def project(value: Any, scale: float) -> Any:
        weight = rng.standard_normal((channels, channels), np.float32) * np.float32(scale / channels**0.5)
        return ops.matmul(value, ops.constant(weight), False, True)

    def split(value: Any) -> Any:
        return ops.transpose(ops.reshape(value, [0, 0, heads, width], True), [0, 2, 1, 3])

    q, k, v = project(x, 1.5), project(context, 1.5), project(context, 1.0)
    attention = ops.scaled_dot_product_attention(split(q), split(k), split(v))
    joined = ops.reshape(ops.transpose(attention, [0, 2, 1, 3]), [0, 0, channels], True)
    return ov.Model([ops.result(project(joined, 1.0))], [x, context], "attention")


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def pytorch(*, batch: int, queries: int, keys: int, heads: int, width: int, precision: str, threads: int) -> Opened:
    """Open `scaled_dot_product_attention`, with the views around it that diffusers makes."""
    import torch

    torch.set_num_threads(threads)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    q, k, v = (torch.from_numpy(_random(batch, length, heads * width)).to(dtype) for length in (queries, keys, keys))

    def call() -> None:
        with torch.inference_mode():
            split = (value.unflatten(2, (heads, width)).transpose(1, 2) for value in (q, k, v))
            torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    return call, {"version": torch.__version__}


def onnxruntime(*, batch: int, queries: int, keys: int, heads: int, width: int, threads: int) -> Opened:
    """Open `com.microsoft.MultiHeadAttention`, alone in its graph."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    lengths = {"q": queries, "k": keys, "v": keys, "y": queries}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, length, heads * width])
        for name, length in lengths.items()
    }
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=heads)
    graph = helper.make_graph([node], "attention", [values[name] for name in "qkv"], [values["y"]])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {name: _random(batch, length, heads * width) for name, length in lengths.items() if name != "y"}
    return lambda: session.run(None, feeds) and None, {"version": ort.__version__}


def kernel(*, batch: int, queries: int, keys: int, heads: int, width: int, path: str, threads: int) -> Opened:
    """Open our kernel without OpenVINO, on one path, in fp32."""
    from diffoundry.runtime.native import attention_kernel

    found = attention_kernel()
    if found is None or not found.available(path):
        raise RuntimeError(f"the native attention kernel is not built (make native), or this machine lacks {path}")
    q, k, v = (_random(batch, length, heads * width) for length in (queries, keys, keys))

    def call() -> tuple[float, None]:
        start = time.perf_counter()
        found.attention(q, k, v, heads=heads, scale=width**-0.5, path=path, threads=threads)
        return time.perf_counter() - start, None

    return call, {}


def _milliseconds(result: Result) -> float | None:
    return None if result.fault else statistics.median(result.seconds) * 1e3


def _markdown(table: list[dict[str, Any]]) -> str:
    lines = [f"| case | {' | '.join(ROWS)} | OpenVINO / native bf16 | fp32 |", "| --- |" + " --- |" * (len(ROWS) + 2)]
    for entry in table:
        found = entry["milliseconds"]
        cells = ["-" if value is None else f"{value:.2f}" for value in found.values()]
        for precision in ("bf16", "fp32"):
            ours, theirs = found[f"native {precision}"], found[f"OpenVINO {precision}"]
            cells.append(f"{theirs / ours:.2f}" if ours and theirs else "-")
        lines.append(f"| {entry['case']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Measures each rewrite of the onnxruntime target: one component, with one more rewrite from row to row.

python benchmarks/bench_onnxruntime_fusions.py [--model sd15 --random-weights] [--component unet] [--size 512]
    [--batch 2] [--rounds 3] [--calls 2] [--threads N] [--plain] [--optimizer] [--folder DIR] [--json FILE]

Every row runs in a process of its own, since two engines of a UNet do not fit side by side on a small machine; the
rows take turns, `--rounds` times. Seconds are medians over all calls but each process's first. CPU seconds are those of
all threads: on a machine that does other work they say more. The error is the root mean square of the difference to
PyTorch's fp32 output over that of the output. `--plain` adds the plain output of `torch.onnx.export`
(default opset, its own optimizer, fixed sizes) to show the effect of the portable graph. `--optimizer` adds ONNX
Runtime's own transformer optimizer, `onnxruntime.transformers.optimizer` with the model type "unet". It gets the graph
that its patterns were written for: TorchScript's export with diffusers' `AttnProcessor`. Fusions into operators without
a kernel for the CPU are off.
"""

import argparse
import importlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint

ROWS = ("torch", "plain", "optimizer", "portable", "attention", "group_norm", "winograd")
"""From `attention` on, each row has the rewrites of the rows before it."""

PLAIN = ("plain", "optimizer")
"""Rows of graphs that diffoundry did not make."""

WITHOUT_CPU = ("nhwc_conv", "group_norm", "skip_group_norm", "bias_splitgelu", "packed_qkv", "packed_kv", "bias_add")
"""Fusions of ONNX Runtime's optimizer whose operators have kernels for GPUs only."""


LARGEST_FUSED = 1280 * 1280
"""Weights of the largest projection of an attention, which the optimizer joins with others."""


def main() -> None:
    """Export what is missing, run the rows in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--component", default="unet")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--optimizer", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("bench-fusions"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    checkpoint = open_checkpoint(asked.model, random_weights=asked.random_weights)
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.only:
        print(json.dumps(STAGES.get(asked.only, _run)(checkpoint, asked)))
        return
    rows = [row for row in ROWS if row not in PLAIN or getattr(asked, row)]
    for row in rows[1:]:
        if not _graph(asked, row).is_file():
            print(f"making {row}", file=sys.stderr)
            _child(f"make-{row}")
    results: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    for count in range(asked.rounds):
        for row in rows:
            print(f"round {count + 1}: {row}", file=sys.stderr)
            results[row].append(_child(row))
    table = _table(results, asked)
    print(_markdown(table))
    if asked.json:
        asked.json.write_text(json.dumps({"asked": _plain_values(asked), "rows": table}, indent=2))


def _child(only: str) -> dict[str, Any]:
    """Run one stage of this script in a process of its own, and return what it printed last."""
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", only], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _graph(asked: argparse.Namespace, row: str) -> Path:
    name = "model.onnx" if row in ("portable", *PLAIN) else f"model.{row}.onnx"
    return Path(asked.folder / (row if row in PLAIN else "portable") / asked.component / name)


def _module(checkpoint: Checkpoint, asked: argparse.Namespace) -> Any:
    """The component's torch module with the graph's inputs and outputs."""
    component = checkpoint.component(asked.component)
    path, _, name = component.wrapper.partition(":")
    return getattr(importlib.import_module(path), name)(checkpoint.load(asked.component), component).eval()


def _feeds(checkpoint: Checkpoint, asked: argparse.Namespace) -> dict[str, np.ndarray]:
    """Standard normal inputs; the timestep is 500."""
    sizes = {"batch": asked.batch, "sequence": 77, "height": asked.size, "width": asked.size}
    sizes |= {f"{name}/8": asked.size // 8 for name in ("height", "width")}
    generator = np.random.default_rng(0)
    feeds = {}
    for spec in checkpoint.component(asked.component).inputs:
        shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
        feeds[spec.name] = generator.standard_normal(shape).astype(spec.dtype)
    if "timestep" in feeds:
        feeds["timestep"][:] = 500
    return feeds


def _make_portable(checkpoint: Checkpoint, asked: argparse.Namespace) -> dict[str, Any]:
    from diffoundry.exporter.passes import OPSET, optimize
    from diffoundry.exporter.steps.graph_files import save_graph
    from diffoundry.exporter.steps.trace import trace

    folder = _graph(asked, "portable").parent
    folder.mkdir(parents=True, exist_ok=True)
    module = checkpoint.load(asked.component)
    save_graph(optimize(trace(module, checkpoint.component(asked.component), opset=OPSET)), folder)
    return {}


def _make_plain(checkpoint: Checkpoint, asked: argparse.Namespace) -> dict[str, Any]:
    import torch

    path = _graph(asked, "plain")
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        module = _module(checkpoint, asked)
        torch.onnx.export(module, f=path, dynamo=True, verbose=False, **_export_arguments(checkpoint, asked))
    return {}


def _make_optimizer(checkpoint: Checkpoint, asked: argparse.Namespace) -> dict[str, Any]:
    import torch
    from diffusers.models.attention_processor import AttnProcessor
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    path = _graph(asked, "optimizer")
    given = path.with_name("given.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not given.is_file():
        module = _module(checkpoint, asked)
        network = next(inner for inner in module.modules() if hasattr(inner, "set_attn_processor"))
        network.set_attn_processor(AttnProcessor())
        with torch.no_grad():
            arguments = _export_arguments(checkpoint, asked)
            torch.onnx.export(module, f=str(given), dynamo=False, opset_version=17, **arguments)
        del module, network
    options = FusionOptions("unet")
    for fusion in WITHOUT_CPU:
        setattr(options, f"enable_{fusion}", False)
    model = optimize_model(_small_weights(given), model_type="unet", optimization_options=options, opt_level=0)
    fused = {kind: count for kind, count in model.get_fused_operator_statistics().items() if count}
    print(f"onnxruntime.transformers.optimizer: {fused}", file=sys.stderr)
    model.save_model_to_file(str(path), use_external_data_format=True)
    return {}


def _small_weights(path: Path) -> Any:
    """Read a graph; large weights stay in their files. The optimizer copies it, and took 18 GB with all of them."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    constants = [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")]
    small = [tensor for tensor in model.graph.initializer if math.prod(tensor.dims) <= LARGEST_FUSED]
    for tensor in (*constants, *small):
        if tensor.external_data:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def _export_arguments(checkpoint: Checkpoint, asked: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `torch.onnx.export` for fixed sizes."""
    import torch

    component = checkpoint.component(asked.component)
    names = [[spec.name for spec in specs] for specs in (component.inputs, component.outputs)]
    feeds = tuple(torch.from_numpy(feed) for feed in _feeds(checkpoint, asked).values())
    return {"args": feeds, "input_names": names[0], "output_names": names[1]}


def _make_rewritten(row: str) -> Callable[[Checkpoint, argparse.Namespace], dict[str, Any]]:
    def make(_: Checkpoint, asked: argparse.Namespace) -> dict[str, Any]:
        import onnx_ir as ir
        from onnx_ir.passes.common import RemoveUnusedNodesPass

        from diffoundry.targets.onnxruntime.build import fusions
        from diffoundry.targets.onnxruntime.build.target import save_beside

        rewrites = (fusions.FuseMultiHeadAttention(), fusions.SplitGroupNorm(), fusions.WinogradConvolution())
        model = ir.load(_graph(asked, "portable"))
        count = ROWS.index(row) - ROWS.index("portable")
        ir.passes.Sequential(*rewrites[:count], RemoveUnusedNodesPass())(model)
        save_beside(model, _graph(asked, row))
        return {}

    return make


STAGES: dict[str, Callable[[Checkpoint, argparse.Namespace], dict[str, Any]]] = {
    "make-portable": _make_portable,
    "make-plain": _make_plain,
    "make-optimizer": _make_optimizer,
    **{f"make-{row}": _make_rewritten(row) for row in ROWS[ROWS.index("attention") :]},
}


def _run(checkpoint: Checkpoint, asked: argparse.Namespace) -> dict[str, Any]:
    """Load one row's engine, call it, and leave its output beside the graphs."""
    start = time.perf_counter()
    call = _torch_call(checkpoint, asked) if asked.only == "torch" else _onnxruntime_call(asked)
    load = time.perf_counter() - start
    feeds = _feeds(checkpoint, asked)
    seconds, cpu = [], []
    for _ in range(asked.calls + 1):
        start, start_cpu = time.perf_counter(), time.process_time()
        output = call(feeds)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    np.save(asked.folder / f"{asked.only}.npy", output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"load": load, "seconds": seconds[1:], "cpu": cpu[1:], "peak_rss": peak}


def _torch_call(checkpoint: Checkpoint, asked: argparse.Namespace) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    import torch

    torch.set_num_threads(asked.threads)
    module = _module(checkpoint, asked)

    @torch.inference_mode()
    def call(feeds: dict[str, np.ndarray]) -> np.ndarray:
        found: np.ndarray = module(*(torch.from_numpy(feed) for feed in feeds.values()))[0].numpy()
        return found

    return call


def _onnxruntime_call(asked: argparse.Namespace) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.log_severity_level = 3
    # Waiting threads would count as CPU seconds.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(_graph(asked, asked.only)), options, providers=["CPUExecutionProvider"])

    def call(feeds: dict[str, np.ndarray]) -> np.ndarray:
        found: np.ndarray = session.run(None, feeds)[0]
        return found

    return call


def _table(results: dict[str, list[dict[str, Any]]], asked: argparse.Namespace) -> list[dict[str, Any]]:
    reference = np.load(asked.folder / "torch.npy").astype(np.float64)
    table: list[dict[str, Any]] = []
    for row, runs in results.items():
        output = np.load(asked.folder / f"{row}.npy")
        seconds = [second for run in runs for second in run["seconds"]]
        table.append(
            {
                "row": row,
                "seconds": statistics.median(seconds),
                "fastest": min(seconds),
                "cpu_seconds": statistics.median(second for run in runs for second in run["cpu"]),
                "error": float(np.sqrt(np.mean((output - reference) ** 2) / np.mean(reference**2))),
                "load_seconds": statistics.median(run["load"] for run in runs),
                "peak_rss": max(run["peak_rss"] for run in runs),
            }
        )
    by_row = {entry["row"]: entry for entry in table}
    for entry in table:
        for other in ("torch", "portable"):
            entry[f"of_{other}"] = entry["seconds"] / by_row[other]["seconds"]
            entry[f"cpu_of_{other}"] = entry["cpu_seconds"] / by_row[other]["cpu_seconds"]
    return table


def _markdown(table: list[dict[str, Any]]) -> str:
    lines = [
        "| | seconds (fastest) | CPU seconds | of torch (CPU) | of portable (CPU) | error | load s | peak RSS GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {e['row']} | {e['seconds']:.3f} ({e['fastest']:.3f}) | {e['cpu_seconds']:.3f} "
        f"| {e['of_torch']:.2f} ({e['cpu_of_torch']:.2f}) | {e['of_portable']:.2f} ({e['cpu_of_portable']:.2f}) "
        f"| {e['error']:.1e} | {e['load_seconds']:.1f} | {e['peak_rss'] / 1e9:.2f} |"
        for e in table
    ]
    return "\n".join(lines)


def _plain_values(asked: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()}


if __name__ == "__main__":
    main()

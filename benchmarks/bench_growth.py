"""Measures how cost grows with batch, pixels, steps and threads: ours, the plain graph in OpenVINO, and PyTorch.

python benchmarks/bench_growth.py BUNDLE --model sd15 [--precision fp32] [--batches 1 2 4 8]
    [--sizes 256 512 768 1024] [--steps 1 10 25 50] [--threads 1 2] [--size 256] [--rounds 2] [--folder DIR]
    [--json FILE] [--svg docs/images/growth.svg] [--draw FILE]

BUNDLE is made with `diffoundry export --model sd15 --random-weights --target openvino --precision fp32`, without
--buckets; --model is its checkpoint. Batches, and threads, are measured at --size pixels, sizes with a batch of 1,
steps as whole images at --size pixels (the plain graph's row is OpenVINO GenAI there). All stay open; in turns each
goes to the next point and does one call that is not counted and one that is, --rounds times over all points.
The plain graph is compiled for each point's shape, ours is one engine for all. "Growth" is a row's time over that of
its first point, divided by the same ratio of the arithmetic: 1 is proportional, above 1 grows faster.
--draw plots a file that --json wrote, and measures nothing.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib.baselines import Opened, our_image, plain_graph, unet_feeds
from lib.interleaved import BenchmarkRow, machine, run_in_turns

OURS, PLAIN, TORCH = "diffoundry", "plain OpenVINO", "PyTorch"
AXES = {"batch": "rows of the batch", "size": "pixels a side", "steps": "steps of an image"}
_PROMPT = {"prompt": "red apple", "guidance_scale": 7.5, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured amount of work: a call of the UNet, or an image if `steps` is not 0."""

    axis: str
    size: int
    batch: int
    threads: int
    steps: int = 0

    @property
    def value(self) -> int:
        """Position on its axis."""
        value: int = getattr(self, self.axis)
        return value


def main() -> None:
    """Measure all points, print a table and draw one panel per axis."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 768, 1024])
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 10, 25, 50])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("bench-plain"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--draw", type=Path)
    asked = parser.parse_args()
    if asked.draw:
        report = json.loads(asked.draw.read_text(encoding="utf-8"))
    elif asked.bundle is None or asked.model is None:
        parser.error("give the bundle and --model, its checkpoint, or --draw FILE")
    else:
        report = _measure(asked)
    _print(report)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if asked.svg:
        _draw(report, asked.svg)


def points(asked: argparse.Namespace) -> list[Point]:
    """List the points of every axis and number of threads; steps are measured with the most threads only."""
    most = max(asked.threads)
    calls = [
        Point(axis=axis, threads=threads, size=size, batch=batch)
        for threads in asked.threads
        for axis, works in (
            ("batch", [(asked.size, batch) for batch in asked.batches]),
            ("size", [(size, 1) for size in asked.sizes]),
        )
        for size, batch in works
    ]
    return calls + [Point(axis="steps", threads=most, size=asked.size, batch=1, steps=steps) for steps in asked.steps]


def open_ours(bundle: str, precision: str, threads: int, works: Sequence[Point]) -> Opened:
    """Open our engine for any size; each call measures the next point."""
    from diffoundry.runtime.bundle.bundle import Bundle
    from diffoundry.runtime.engines.protocol import EngineOptions
    from diffoundry.runtime.engines.session import EngineSession

    options = EngineOptions(threads=threads)
    session = EngineSession(Bundle(bundle), target="openvino", precision=precision, options=options)
    session.engine("unet")
    config = session.bundle.config("unet")

    def prepare(point: Point) -> Callable[[], Any]:
        if point.steps:
            request = {**_PROMPT, "steps": point.steps, "size": point.size}
            image, _ = our_image(bundle, request, "openvino", precision, threads)
            return image
        feeds = unet_feeds(config, point.size, point.batch)
        return lambda: session.run("unet", feeds)["out_sample"].std().item()

    return _one_point_a_call(works, prepare), {}


def open_plain(
    graph: str, precision: str, threads: int, config: Mapping[str, Any], bundle: str, works: Sequence[Point]
) -> Opened:
    """Open the plain graph in OpenVINO, fixed to the shapes of a point, and OpenVINO GenAI for images."""
    import openvino as ov
    from lib.baselines import genai_image

    kinds = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}
    hints = {"INFERENCE_PRECISION_HINT": kinds[precision], "INFERENCE_NUM_THREADS": threads}

    def prepare(point: Point) -> Callable[[], Any]:
        if point.steps:
            image, _ = genai_image(bundle, {**_PROMPT, "steps": point.steps, "size": point.size}, precision)
            return image
        feeds = unet_feeds(config, point.size, point.batch)
        model = ov.Core().read_model(graph)
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
        request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()
        return lambda: request.infer(feeds)[0].std().item()

    return _one_point_a_call(works, prepare), {"openvino": ov.__version__}


def open_torch(model: str, dtype: str, threads: int, works: Sequence[Point], *, random_weights: bool) -> Opened:
    """Open PyTorch in eager mode: the UNet, and diffusers' pipeline for images."""
    import torch
    from lib.baselines import torch_calls, torch_image

    torch.set_num_threads(threads)
    common: dict[str, Any] = {"model": model, "dtype": dtype, "random_weights": random_weights}
    call_with = torch_calls(channels_last=dtype == "bfloat16", **common)

    def prepare(point: Point) -> Callable[[], Any]:
        if point.steps:
            image, _ = torch_image(request={**_PROMPT, "steps": point.steps, "size": point.size}, **common)
            return image
        return call_with(point.size, point.batch)

    return _one_point_a_call(works, prepare), {"torch": torch.__version__}


def _one_point_a_call(works: Sequence[Point], prepare: Callable[[Point], Callable[[], Any]]) -> Callable[[], Any]:
    """Make a function that goes over the points, one each time it is called, again and again."""
    position = 0

    def call() -> tuple[float, Any]:
        nonlocal position
        point = works[position % len(works)]
        position += 1
        once = prepare(point)
        once()
        start = time.perf_counter()
        result = once()
        seconds = time.perf_counter() - start
        if isinstance(result, tuple):  # an image's own clock
            seconds = result[0]
        return seconds, None

    return call


def _measure(asked: argparse.Namespace) -> dict[str, Any]:
    from diffoundry.runtime.bundle.bundle import Bundle

    bundle = Bundle(asked.bundle)
    assert bundle.manifest is not None, f"{asked.bundle} has no manifest"
    random = "random_weights_seed" in bundle.manifest.recipe.source
    config = dict(bundle.config("unet"))
    graph = str(
        plain_graph(asked.model, random_weights=random, size=asked.size, batch=2, folder=asked.folder, flexible=True)
    )
    works, rows = points(asked), []
    for threads in asked.threads:
        mine = [point for point in works if point.threads == threads]
        common = {"threads": threads, "works": mine}
        ours = {"bundle": str(asked.bundle), "precision": asked.precision}
        kind = {"fp32": "float32", "bf16": "bfloat16"}[asked.precision]
        openers = {
            OURS: ("open_ours", ours),
            PLAIN: ("open_plain", {"graph": graph, "config": config, **ours}),
            TORCH: ("open_torch", {"model": asked.model, "dtype": kind, "random_weights": random}),
        }
        candidates = [
            BenchmarkRow(name=name, opener=f"bench_growth:{opener}", options={**options, **common})
            for name, (opener, options) in openers.items()
        ]
        calls = len(mine) * asked.rounds
        results = run_in_turns(candidates, calls - 1, lambda line: print(line, file=sys.stderr))
        for name, result in results.items():
            if result.fault is not None:
                rows.append({"name": name, "threads": threads, "fault": result.fault})
                continue
            seconds = [result.first, *result.seconds]
            rows += [
                {"name": name, **asdict(point), "seconds": statistics.median(seconds[number :: len(mine)])}
                for number, point in enumerate(mine)
            ]
    arithmetic = {f"{point.size} {point.batch}": _operations(config, point) for point in works}
    return {
        "machine": machine(),
        "model": asked.model,
        "precision": asked.precision,
        "size": asked.size,
        "tera_operations": arithmetic,
        "rows": rows,
    }


def _operations(config: Mapping[str, Any], point: Point) -> float:
    """Count the multiplications and additions of one call in units of 10**12, without weights."""
    import diffusers
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(config)
    feeds = {
        name: torch.from_numpy(array).to("meta") for name, array in unet_feeds(config, point.size, point.batch).items()
    }
    added = {name: feeds.pop(name) for name in ("text_embeds", "time_ids") if name in feeds}
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        unet(**feeds, added_cond_kwargs=added or None)
    return counter.get_total_flops() / 1e12


def _lines(report: dict[str, Any]) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    """Group the rows to lines of (axis, threads, name), with the growth at each point."""
    lines: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in report["rows"]:
        if "fault" not in row:
            lines.setdefault((row["axis"], row["threads"], row["name"]), []).append(row)
    for line in lines.values():
        line.sort(key=lambda row: row[row["axis"]])
        work = [report["tera_operations"][f"{row['size']} {row['batch']}"] * max(row["steps"], 1) for row in line]
        for row, amount in zip(line, work, strict=True):
            row["growth"] = (row["seconds"] / line[0]["seconds"]) / (amount / work[0])
    return lines


def _print(report: dict[str, Any]) -> None:
    print(f"{report['machine']}; {report['model']}, {report['precision']}")
    names = (OURS, PLAIN, TORCH)
    print("| axis | threads | value | " + " | ".join(f"{name} s (growth)" for name in names) + " |")
    print("| --- " * (3 + len(names)) + "|")
    lines = _lines(report)
    for axis, threads in dict.fromkeys(key[:2] for key in lines):
        ours = lines.get((axis, threads, OURS), [])
        for number, row in enumerate(ours):
            cells = []
            for name in names:
                line = lines.get((axis, threads, name))
                cells.append(f"{line[number]['seconds']:.3f} ({line[number]['growth']:.2f})" if line else "failed")
            print(f"| {axis} | {threads} | {row[axis]} | " + " | ".join(cells) + " |")
    for row in report["rows"]:
        if "fault" in row:
            print(f"{row['name']}, {row['threads']} threads: {row['fault']}")


def _draw(report: dict[str, Any], path: Path) -> None:
    """Draw seconds over each axis, both logarithmic, with the arithmetic as a dotted line."""
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "diffoundry"  # the same file for the same numbers
    figure, panels = plt.subplots(1, len(AXES), figsize=(5 * len(AXES), 4), layout="constrained")
    lines = _lines(report)
    for panel, (axis, label) in zip(panels, AXES.items(), strict=True):
        threads = sorted({key[1] for key in lines if key[0] == axis})
        for (of, count, name), line in lines.items():
            if of == axis:
                style = "-" if count == threads[-1] else "--"
                color = f"C{(OURS, PLAIN, TORCH).index(name)}"
                values, seconds = [row[axis] for row in line], [row["seconds"] for row in line]
                panel.plot(
                    values,
                    seconds,
                    style,
                    color=color,
                    marker="o",
                    label=f"{name}, {count} thread{'s' if count > 1 else ''}",
                )
        ours = lines.get((axis, threads[-1], OURS)) if threads else None
        if ours:
            work = [row["seconds"] / row["growth"] for row in ours]
            panel.plot([row[axis] for row in ours], work, ":", color="#555555", label="arithmetic alone")
            panel.set_xscale("log")
            panel.set_xticks([row[axis] for row in ours], [str(row[axis]) for row in ours])
            panel.minorticks_off()
        panel.set(xlabel=label, yscale="log")
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize=7)
    panels[0].set_ylabel("seconds")
    figure.suptitle(
        f"{report['model']}, {report['precision']}, {report['size']} pixels; {report['machine']}", fontsize=10
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()

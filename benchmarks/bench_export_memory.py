"""Exports a model with random weights, and prints seconds, peak memory and bytes of every job.

python benchmarks/bench_export_memory.py MODEL [--target openvino] [--precision bf16] [--without NAME] [--json FILE]

Peaks are the largest resident memory of the process of a job, mapped files included. The bundle is removed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lib.interleaved import machine


def main() -> None:
    """Export, print, and remove the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an alias")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--without", action="append", default=[], help="a component that is left out")
    parser.add_argument(
        "--folder", type=Path, help="where the bundle is made; the folder of temporary files without it"
    )
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        report = _export(asked, Path(folder) / "bundle")
        rows = {label: {**job, "bytes": _size(Path(folder) / "bundle", label)} for label, job in report["jobs"].items()}
    print(f"{machine()}; {asked.model}, {asked.target} {asked.precision}, {report['seconds']:.0f} s")
    for label, row in rows.items():
        seconds, peak = sum(row["seconds"].values()), row["peak_rss_bytes"] / 1e9
        print(f"{label:<44}{seconds:>8.1f} s{peak:>8.2f} GB{row['bytes'] / 1e9:>8.2f} GB written")
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


def _export(asked: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("diffoundry")), "export", "--model", asked.model, "--random-weights"]
    command += ["--target", asked.target, "--precision", asked.precision, "-o", str(bundle), "--json"]
    for name in asked.without:
        command += ["--without", name]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return report


def _size(bundle: Path, label: str) -> int:
    """Return the bytes of the files that a job's result names, shared ones included."""
    manifest = json.loads((bundle / "diffoundry.json").read_text(encoding="utf-8"))
    name, _, variant = label.partition(", ")
    component = manifest["components"][name]
    engines = [engine for engine in component["engines"] if f"{engine['target']} {engine['precision']}" == variant]
    files = [*component["graph"]] if not variant else [file for engine in engines for file in engine["files"]]
    return sum((bundle / file).stat().st_size for file in files)


if __name__ == "__main__":
    main()

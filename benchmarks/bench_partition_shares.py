"""Weights of a denoiser that leave the loop with `export --partition`, for any alias; nothing is written.

python benchmarks/bench_partition_shares.py sd15 sdxl sd3-medium
"""

import sys

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.passes import OPSET, optimize
from diffoundry.exporter.passes.partition import partition
from diffoundry.exporter.steps.graph_names import name_outputs
from diffoundry.exporter.steps.trace import trace
from diffoundry.runtime.models.roles import DENOISER, PRIOR


def main(aliases: list[str]) -> None:
    """Print a line for each denoiser: bytes of its parts in fp32, and the share outside the step."""
    for alias in aliases:
        checkpoint = open_checkpoint(alias, random_weights=True)
        for component in checkpoint.components:
            if component.role not in (DENOISER, PRIOR):
                continue
            graph = trace(checkpoint.load(component.name, deferred=True), component, opset=OPSET, fixed={})
            graph = optimize(graph)
            name_outputs(graph, component, {})
            parts = {part.name: part.weight_bytes for part in partition(graph)}
            total = sum(parts.values()) or 1
            outside = 100 * (1 - parts.get("step", total) / total)
            words = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in parts.items()) or "one graph"
            print(
                f"{alias} {component.name}: {outside:.1f} % of {total / 1e6:.0f} MB leave the loop ({words})",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])

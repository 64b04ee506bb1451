"""`diffoundry inspect`: shows the content of a bundle."""

from pathlib import Path
from typing import Any

import click
from rich.table import Column, Table

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.manifest import Manifest
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.cli.console import out, print_json, size_text
from diffoundry.runtime.cli.help import Command
from diffoundry.runtime.cli.options import bundle_argument, json_option

__all__ = ["command"]


@click.command(
    "inspect", cls=Command, examples=("diffoundry inspect emoji.bundle", "diffoundry inspect emoji.bundle --json")
)
@bundle_argument
@json_option
def command(bundle: Path, *, as_json: bool) -> None:
    """Show what the bundle DIR holds: family, recipe, scheduler, components, engines and sizes."""
    opened = Bundle(bundle)
    scheduler = opened.read_object("scheduler/scheduler_config.json")
    if as_json:
        manifest = to_json(opened.manifest) if opened.manifest else None
        print_json({"manifest": manifest, "components": list(opened.components), "scheduler": scheduler})
        return
    if opened.manifest is None:
        out.print(
            f"{bundle}: a folder without a manifest, as Optimum exports; components: {', '.join(opened.components)}"
        )
        return
    _print_summary(bundle, opened.manifest, scheduler)
    out.print(_engine_table(opened.manifest))
    for line in _remarks(opened.manifest):
        out.print(line, markup=False, soft_wrap=True)


def _print_summary(path: Path, manifest: Manifest, scheduler: dict[str, Any]) -> None:
    recipe = manifest.recipe
    builds = " + ".join(f"{build.target} {build.precision}" for build in recipe.variants)
    total = sum(file.size for file in manifest.files.values())
    out.print(
        f"[bold]{path}[/bold]: {manifest.family}, {builds}, {size_text(total)}",
        soft_wrap=True,
    )
    joined = "".join(f" + {name}" for name in recipe.controlnets)
    out.print(f"model      {recipe.model}{joined}", markup=False, soft_wrap=True)
    out.print(f"scheduler  {_describe_scheduler(scheduler)}", soft_wrap=True)
    for name, dim in recipe.dims.items():
        out.print(f"{name:<10} {dim.describe()}", soft_wrap=True)
    if recipe.buckets:
        sizes = ", ".join(f"{width}x{height}" for height, width in recipe.buckets)
        out.print(f"sizes      only {sizes}", soft_wrap=True)
    out.print(
        f"made by    diffoundry {manifest.diffoundry}, format {manifest.format_version}, opset {recipe.opset}",
        soft_wrap=True,
    )
    versions = ", ".join(f"{name} {version}" for name, version in manifest.built_with.items())
    out.print(f"with       {versions}", soft_wrap=True)


def _describe_scheduler(config: dict[str, Any]) -> str:
    """Name a scheduler and what the denoiser predicts for it; flow matching leaves no choice."""
    name = str(config.get("_class_name"))
    return name if name.startswith(("Flow", "Piflow")) else f"{name}, {config.get('prediction_type', 'epsilon')}"


def _engine_table(manifest: Manifest) -> Table:
    table = Table("component", Column("engine", no_wrap=True), "inputs", "outputs", "size")
    for name, component in manifest.components.items():
        table.add_section()
        shown: tuple[str, str] | None = None
        for engine in component.engines:
            size = sum(manifest.files[file].size for file in engine.files)
            label = f"{engine.target} {engine.precision}" + (" (not built)" if engine.pending is not None else "")
            tensors = _tensors(engine.inputs), _tensors(engine.outputs)
            table.add_row("" if shown else name, label, *(("", "") if tensors == shown else tensors), size_text(size))
            shown = tensors
    return table


def _remarks(manifest: Manifest) -> list[str]:
    """Metadata of engines, and the pending engines with their reasons."""
    lines = []
    for name, component in manifest.components.items():
        for engine in component.engines:
            facts = [f"{key.replace('_', ' ')} {value}" for key, value in engine.metadata.items()]
            if engine.pending is not None:
                facts.insert(0, f"not built: {engine.pending}")
            if facts:
                lines.append(f"{name}, {engine.target} {engine.precision}: {'; '.join(facts)}")
    for precision, choice in manifest.recipe.quantization.items():
        lines.append(f"{precision}: {_choice(choice)}")
    return lines


def _choice(choice: QuantizationChoice) -> str:
    """Summarize the choice of calibration in one line."""
    parts = [
        f"{name} {len(part.quantized)} of {len(part.quantized) + len(part.kept)} nodes"
        for name, part in choice.components.items()
    ]
    if choice.psnr is not None:
        parts.append(f"{choice.psnr:.1f} dB over {choice.held_out} held-out images")
    return ", ".join(parts)


def _tensors(specs: tuple[TensorSpec, ...]) -> str:
    return "\n".join(f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in specs)

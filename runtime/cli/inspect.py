"""`diffoundry inspect`: shows the content of a bundle, and checks its files."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime.bench.machine import machine_facts
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import EnginePart, EngineSpec, TensorSpec
from diffoundry.runtime.cli.console import make_table, out, print_json, remark, size_text
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.options import bundle_argument, json_option
from diffoundry.runtime.cli.schedulers import main_scheduler_folder
from diffoundry.runtime.engines.part_names import CONDITIONING, PRELUDE, SKIPPED
from diffoundry.runtime.engines.select import find_obstacle
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.native.measured import MODES, choice_mode, describe_choices

__all__ = ["command", "obstacles", "partition_notes"]

_output = options_in("Output")

_SHOWN_VALUES = 4
"""Values that a part hands over, of which a line names as many."""

_EXAMPLES = (
    "diffoundry inspect emoji.bundle",
    "diffoundry inspect emoji.bundle --full",
    "diffoundry inspect emoji.bundle --check",
)


@click.command("inspect", cls=Command, examples=_EXAMPLES)
@bundle_argument
@_output("--full", is_flag=True, help="Show inputs, outputs, and what each target changed, too.")
@_output("--check", is_flag=True, help="Compare every file with its SHA-256. The exit code is 1 if one differs.")
@json_option
def command(bundle: Path, *, full: bool, check: bool, as_json: bool) -> None:
    """Show what the bundle DIR holds: model, scheduler, sizes, engines, and whether they can run here."""
    opened = Bundle(bundle)
    if check:
        _check(opened, as_json=as_json)
        return
    folder = main_scheduler_folder(opened)
    scheduler = None if folder is None else opened.read_object(f"{folder}/scheduler_config.json")
    if as_json:
        manifest = to_json(opened.manifest) if opened.manifest else None
        print_json(
            {
                "manifest": manifest,
                "components": list(opened.components),
                "scheduler": scheduler,
                "obstacles": obstacles(opened.manifest) if opened.manifest else {},
            }
        )
        return
    if opened.manifest is None:
        out.print(
            f"{bundle}: a folder without a manifest, as Optimum exports; its files cannot be checked; components: "
            f"{', '.join(opened.components)}",
            soft_wrap=True,
        )
        return
    for line in _summary(bundle, opened.manifest, scheduler):
        out.print(line, soft_wrap=True)
    _print_engines(opened.manifest)
    if full:
        for line in [*_details(opened.manifest), *_measured()]:
            out.print(line, soft_wrap=True)
    else:
        remark("--full shows inputs and outputs, --check compares every file with its SHA-256")


def obstacles(manifest: Manifest) -> dict[str, str]:
    """Map "target precision" of the engines that cannot run on this machine to the reason."""
    found: dict[str, str] = {}
    for component in manifest.components.values():
        for engine in component.engines:
            label = _label(engine)
            if label not in found and (reason := find_obstacle(engine)) is not None:
                found[label] = reason
    return found


def partition_notes(manifest: Manifest) -> list[str]:
    """Describe what leaves the loop, and what caches leave out, a line for each engine that was cut or stayed whole."""
    lines = []
    for name, component in manifest.components.items():
        for engine in component.engines:
            subject = f"{name}, {_label(engine)}"
            outside = [part for part in engine.parts if part.name in (CONDITIONING, PRELUDE)]
            skipped = [part for part in engine.parts if part.name in SKIPPED]
            if outside:
                lines.append(f"{subject}: {_share(outside, engine)} of weights leave the loop ({_sizes(outside)})")
            elif manifest.recipe.partition and component.role == DENOISER:
                kept = "" if engine.parts else ", so it is one graph"
                lines.append(f"{subject}: nothing of it leaves the loop{kept}")
            if skipped:
                rest = [part for part in engine.parts if part not in outside]
                caches = "deep and first-block" if skipped[0].residuals else "deep"
                lines.append(
                    f"{subject}: split into {_sizes(rest)}; {caches} caches leave out {skipped[0].name} in some steps"
                )
    return lines


def _share(some: list[EnginePart], engine: EngineSpec) -> str:
    total = sum(part.weights for part in engine.parts)
    share = 100 * sum(part.weights for part in some) / total if total else 0.0
    return f"{share:.1f} % of {size_text(total)}"


def _sizes(parts: list[EnginePart]) -> str:
    return ", ".join(f"{part.name} {size_text(part.weights)}" for part in parts)


def _check(bundle: Bundle, *, as_json: bool) -> None:
    """Compare every file with the manifest, and report all that differ."""
    if bundle.manifest is None:
        raise BundleError(
            f"bundle {bundle.root}: got a folder without {MANIFEST_NAME}, which has no checksums, so nothing can be "
            f"checked; export it with diffoundry"
        )
    damaged: dict[str, str] = {}
    for name in bundle.manifest.files:
        try:
            bundle.file(name)
        except BundleError as error:
            damaged[name] = str(error)
    others = sorted(
        path.relative_to(bundle.root).as_posix()
        for path in bundle.root.rglob("*")
        if not path.is_dir() and path.relative_to(bundle.root).as_posix() not in {*bundle.manifest.files, MANIFEST_NAME}
    )
    if as_json:
        print_json({"files": len(bundle.manifest.files), "damaged": damaged, "not_listed": others})
    else:
        for sentence in damaged.values():
            out.print(sentence, soft_wrap=True)
        if others:
            out.print(f"not part of the bundle, and never read: {', '.join(others)}", soft_wrap=True)
        total, count = len(bundle.manifest.files), len(damaged)
        result = f"FAILED: {count} of {total} files differ" if damaged else f"passed: all {total} files are unchanged"
        out.print(f"{result}", soft_wrap=True)
    if damaged:
        sys.exit(1)


def _summary(path: Path, manifest: Manifest, scheduler: Any) -> list[str]:
    recipe = manifest.recipe
    total = sum(file.size for file in manifest.files.values())
    parts = [*recipe.controlnets, *recipe.t2i_adapters, *recipe.ip_adapters]
    joined = "".join(f" + {name}" for name in (*parts, *(["attention control"] if recipe.attention_control else [])))
    facts = {
        "model": f"{recipe.model}{joined}",
        "scheduler": "none" if scheduler is None else _describe_scheduler(scheduler),
        **{name: dim.describe() for name, dim in recipe.dims.items()},
    }
    if recipe.buckets:
        facts["sizes"] = "only " + ", ".join(f"{width}x{height}" for height, width in recipe.buckets)
    facts["made by"] = f"diffoundry {manifest.diffoundry}, format {manifest.format_version}, opset {recipe.opset}"
    facts["with"] = ", ".join(f"{name} {version}" for name, version in manifest.built_with.items())
    return [f"{path}: {manifest.family}, {size_text(total)}", *(f"{name:<10} {text}" for name, text in facts.items())]


def _describe_scheduler(config: Any) -> str:
    """Name a scheduler and what the denoiser predicts for it; flow matching leaves no choice."""
    if not isinstance(config, Mapping):
        return f"damaged: got {type(config).__name__}, expected an object"
    name = str(config.get("_class_name"))
    return name if name.startswith(("Flow", "Piflow")) else f"{name}, {config.get('prediction_type', 'epsilon')}"


def _label(engine: EngineSpec) -> str:
    return f"{engine.target} {engine.precision}"


def _print_engines(manifest: Manifest) -> None:
    """Print one line for each engine, then the reasons why engines cannot run here."""
    reasons = obstacles(manifest)
    table = make_table("component", "engine", "size", "here", numbers=("size",))
    for name, component in manifest.components.items():
        for index, engine in enumerate(component.engines):
            size = sum(manifest.files[file].size for file in engine.files)
            here = "not built" if engine.pending is not None else "cannot run" if _label(engine) in reasons else "runs"
            table.add_row("" if index else name, _label(engine), size_text(size), here)
    out.print(table)
    for label, reason in reasons.items():
        out.print(f"{label} cannot run here: {reason}", soft_wrap=True)
    for line in partition_notes(manifest):
        out.print(line, soft_wrap=True)
    for precision, choice in manifest.recipe.quantization.items():
        out.print(f"{precision}: {_choice(choice)}", soft_wrap=True)


def _details(manifest: Manifest) -> list[str]:
    """Inputs, outputs, files and the vendor's facts of every engine, as lines."""
    lines = []
    for name, component in manifest.components.items():
        lines.append(f"{name} ({component.network})" if component.network else name)
        shown: tuple[list[str], list[str]] | None = None
        for engine in component.engines:
            lines.append(f"  {_label(engine)}: {', '.join(engine.files)}")
            tensors = _tensors("in ", engine.inputs), _tensors("out", engine.outputs)
            if tensors != shown:
                lines += [f"    {line}" for part in tensors for line in part]
            shown = tensors
            lines += [f"    {key.replace('_', ' ')}: {value}" for key, value in engine.metadata.items()]
            for one in engine.parts:
                made = ", ".join(tensor.name for tensor in one.outputs[:_SHOWN_VALUES])
                more = f" and {len(one.outputs) - _SHOWN_VALUES} more" if len(one.outputs) > _SHOWN_VALUES else ""
                lines.append(f"    part {one.name}: {', '.join(one.files)}; makes {made}{more}")
    return lines


def _measured() -> list[str]:
    """Measurements by which engines choose between our kernels and their own on this machine."""
    found = describe_choices(machine_facts().cpu)
    mode = choice_mode(option=True)
    if not found and mode == "measured":
        return []
    return [f"native code on this machine: mode {mode}, {MODES[mode]}", *(f"  {line}" for line in found)]


def _choice(choice: QuantizationChoice) -> str:
    """Summarize the choice of calibration in one line."""
    parts = [
        f"{len(part.quantized)} of {len(part.quantized) + len(part.kept)} nodes of {name} quantized"
        for name, part in choice.components.items()
    ]
    if choice.psnr is not None:
        parts.append(f"{choice.psnr:.1f} dB to fp32 over {choice.held_out} held-out images")
    else:
        parts.append("without calibration: no image was measured")
    return ", ".join(parts)


def _tensors(direction: str, specs: tuple[TensorSpec, ...]) -> list[str]:
    width = max((len(spec.name) for spec in specs), default=0)
    return [f"{direction} {spec.name:<{width}} {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in specs]

"""`diffoundry export`: compiles a checkpoint into a bundle."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffoundry.exporter.bundle_writer import check_output
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.checkpoints.resolve import forms
from diffoundry.exporter.checkpoints.single_file import PREDICTION_TYPES
from diffoundry.exporter.cli.budget import budget_options, take_budget
from diffoundry.exporter.cli.progress import jobs_json, jobs_table, show_progress, tell_engine_notes
from diffoundry.exporter.cli.words import first_word, joined, parse_variants
from diffoundry.exporter.families.lookup import find_family
from diffoundry.exporter.request import ExportRequest, parse_buckets, parse_dim
from diffoundry.exporter.single_graph.request import SingleGraphRequest
from diffoundry.runtime.adapters.pickles import check_not_pickled
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.specs import PRECISIONS, FusedLora, Variant
from diffoundry.runtime.cli.adapters import parse_lora
from diffoundry.runtime.cli.completion import complete_precision, complete_scheduler, complete_target
from diffoundry.runtime.cli.console import out, print_json, remark, size_text
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.options import SEED, json_option
from diffoundry.runtime.cli.status_line import StatusLine
from diffoundry.runtime.engines.plugins import list_plugins
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.suggest import did_you_mean

if TYPE_CHECKING:
    from diffoundry.exporter.export import ExportReport

__all__ = ["command", "read_loras"]

_checkpoint = options_in("Checkpoint")

_engines = options_in("Engines")

_sizes = options_in("Sizes")

_graph = options_in("One graph")

_output = options_in("Output")


def _folder(_context: click.Context, _parameter: click.Parameter, value: str) -> Path:
    """Read the folder of a bundle.

    Raises:
        InputError: The name is empty.
    """
    if not value.strip():
        raise InputError("--output: got an empty name, expected the folder of the bundle, such as sd15.bundle")
    return Path(value)


_EXAMPLES = (
    "diffoundry export emoji --target onnxruntime -o emoji.bundle",
    "diffoundry export sd15 --target openvino --precision bf16,fp32 -o sd15.bundle",
    "diffoundry export my-checkpoint/ --target onnxruntime --height 512 --width 512 -o my.bundle",
)


@click.command(
    "export",
    cls=Command,
    examples=_EXAMPLES,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="MODEL")
@_checkpoint("--model", help="The same as MODEL.")
@_checkpoint("--revision", help="Branch, tag or commit of a hub id; also as org/name@revision.")
@_checkpoint("--variant", help="Variant of the weight files: fp16, bf16, non_ema ...  [default: files without one]")
@_checkpoint("--vae", metavar="DIR|FILE", help="Use this AutoencoderTiny or AutoencoderKL instead of the model's VAE.")
@_checkpoint("--transformer", metavar="FILE", help="Use this transformer of FLUX or Z-Image instead of the model's.")
@_checkpoint(
    "--pipeline",
    metavar="CLASS",
    help="Export for this pipeline class of the same networks, such as StableDiffusionXLPAGPipeline.  "
    "[default: the checkpoint's]",
)
@_checkpoint("--lora", multiple=True, metavar="FILE[:SCALE]", help="Add a LoRA to the weights. May be repeated.")
@_checkpoint("--controlnet", multiple=True, metavar="NAME|DIR|FILE", help="Add a ControlNet. May be repeated.")
@_checkpoint("--attention-control", is_flag=True, help="Let Prompt-to-Prompt and heat maps reach the UNet's attention.")
@_checkpoint("--t2i-adapter", multiple=True, metavar="DIR", help="Add a T2I-Adapter. May be repeated.")
@_checkpoint("--ip-adapter", multiple=True, metavar="FILE|DIR", help="Add an IP-Adapter. May be repeated.")
@_checkpoint(
    "--image-encoder",
    metavar="DIR",
    help="Image encoder of the IP-Adapters.  [default: image_encoder beside the first]",
)
@_checkpoint("--no-safety-checker", is_flag=True, help="Leave out the checkpoint's safety checker.")
@_checkpoint(
    "--without",
    multiple=True,
    metavar="NAME",
    help="Leave out a part that the checkpoint may lack: text_encoder_3 of Stable Diffusion 3. May be repeated.",
)
@_checkpoint(
    "--prediction-type",
    type=click.Choice(PREDICTION_TYPES),
    help="Prediction type of a single file's UNet.  [default: the file's]",
)
@_checkpoint("--random-weights", is_flag=True, help="Build an alias's architecture with seeded random weights.")
@_checkpoint("--seed", type=SEED, default=0, show_default=True, help="Seed of the random weights.")
@_engines(
    "--target",
    multiple=True,
    callback=joined,
    shell_complete=complete_target,
    envvar="DIFFOUNDRY_TARGET",
    help="Target, or several: openvino,onnxruntime.  [required]",
)
@_engines(
    "--precision",
    multiple=True,
    callback=joined,
    shell_complete=complete_precision,
    help=f"Precision, or several, the preferred first: bf16,fp32. One of {', '.join(PRECISIONS)}.  [default: fp32]",
)
@_engines("--partition", is_flag=True, help="Cut denoisers: what does not read the latents leaves the loop.")
@_engines("--split", is_flag=True, help="Cut denoisers around their inner part, for --cache deep and first-block.")
@_sizes("--batch", help="Rows of one engine call (a guided image has two): 2, or a range 1..8.  [default: any]")
@_sizes("--height", help="Pixels: 512, or a range 256..1024.  [default: any]")
@_sizes("--width", help="Pixels: 512, or a range 256..1024.  [default: any]")
@_sizes("--buckets", help="The only image sizes, WIDTHxHEIGHT, each compiled separately: 512x512,768x512.")
@budget_options
@_graph("--single-graph", is_flag=True, help="Write encoders, loop and decoder as one graph too: DIR/model.onnx.")
@_graph("--steps", "num_inference_steps", type=int, help="Steps of its loop.  [default: as generate]")
@_graph(
    "--scheduler",
    shell_complete=complete_scheduler,
    help="Its scheduler: a name such as euler_a.  [default: the checkpoint's]",
)
@_output("-o", "--output", required=True, callback=_folder, metavar="DIR", help="The bundle's folder.")
@_output("--overwrite", is_flag=True, help="Replace the bundle at DIR when the new one is complete.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    words: tuple[str, ...],
    *,
    target: str | None,
    precision: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Compile the checkpoint MODEL into the bundle DIR. The same command continues an interrupted export.

    MODEL is a diffusers folder, a single .safetensors file, a hub id, or an alias: emoji, sd15, sdxl ...
    Options of a target, such as --winograd, are added at the end: 'diffoundry targets NAME' lists them.
    """
    started = time.perf_counter()
    named, rest = first_word(context, words)
    variants = _take_variants(context, target, precision, rest)
    values["model"] = _take_model(context, named, values["model"])
    output: Path = values.pop("output")
    overwrite: bool = values.pop("overwrite")
    sizes = _take_sizes(values)
    request = ExportRequest(
        variants=variants,
        quantization=take_budget(values),
        overwrite=overwrite,
        partition=values.pop("partition"),
        split=values.pop("split"),
        single_graph=_take_single_graph(values),
        **sizes,
    )
    check_output(output, overwrite=overwrite)
    checkpoint = _open(**values)
    for notice in checkpoint.notices():
        remark(f"note: {notice}")

    from diffoundry.exporter.export import export  # imports the graph libraries: after every check of words and paths

    jobs, partial = len(checkpoint.components) * (1 + len(variants)), output.with_name(f"{output.name}.partial")
    with show_progress(jobs, "export", partial) as progress:
        report = export(checkpoint, request, output, progress)
    _print_report(report, output, time.perf_counter() - started, as_json=as_json)


def _take_variants(
    context: click.Context, target: str | None, precision: str | None, words: list[str]
) -> tuple[Variant, ...]:
    """Read --target and --precision, with the options of targets.

    Raises:
        UsageError: No target.
        InputError: An unknown target or precision.
        ConfigError: An option that neither the command nor a target has.
    """
    options = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    if target is None:
        unknown = next((word for word in words if word.startswith("--")), "")
        question = did_you_mean(unknown, options)
        here = ", ".join(plugin.name for plugin in list_plugins() if plugin.installed) or "none"
        raise click.UsageError(
            f"No such option {unknown!r}.{question}"
            if question
            else f"Missing option '--target'. Installed here: {here}; 'diffoundry targets' describes them."
        )
    return parse_variants(target, precision, words, options)


def _take_model(context: click.Context, argument: str | None, option: str | None) -> str:
    """Return MODEL, or the value of --model.

    Raises:
        UsageError: Neither.
        InputError: Both.
    """
    if argument is not None and option is not None:
        raise InputError(f"MODEL: got {argument!r} and --model {option!r}, expected one of them")
    model = option if argument is None else argument
    if model is None:
        raise click.UsageError(f"Missing argument 'MODEL': {forms()}.", context)
    return model


def _take_sizes(values: dict[str, Any]) -> dict[str, Any]:
    """Move the sizes out of a command's arguments, as keyword arguments of `ExportRequest`.

    Raises:
        InputError: A size cannot be read, or buckets come with --height or --width.
    """
    buckets = values.pop("buckets")
    dims = {name: text for name in ("batch", "height", "width") if (text := values.pop(name))}
    if buckets is not None and dims.keys() & {"height", "width"}:
        raise InputError("--buckets: got --height or --width as well, expected one of the two ways to name sizes")
    return {
        "dims": {name: parse_dim(name, text) for name, text in dims.items()},
        "buckets": parse_buckets(buckets) if buckets is not None else (),
    }


def _take_single_graph(values: dict[str, Any]) -> SingleGraphRequest | None:
    """Move the options of the one graph out of a command's arguments.

    Raises:
        InputError: An option of it without --single-graph.
    """
    wanted = values.pop("single_graph")
    options = {"--steps": values.pop("num_inference_steps"), "--scheduler": values.pop("scheduler")}
    for name, value in options.items():
        if value is not None and not wanted:
            raise InputError(
                f"{name}: got {value!r} without --single-graph, expected both: other engines take any; pass "
                f"--single-graph, or leave it out"
            )
    return SingleGraphRequest(steps=options["--steps"], scheduler=options["--scheduler"]) if wanted else None


def _open(
    *,
    model: str,
    random_weights: bool,
    seed: int,
    lora: Sequence[str],
    controlnet: Sequence[str],
    attention_control: bool,
    t2i_adapter: Sequence[str],
    ip_adapter: Sequence[str],
    image_encoder: str | None,
    vae: str | None,
    transformer: str | None,
    pipeline: str | None,
    no_safety_checker: bool,
    without: Sequence[str],
    prediction_type: str | None,
    revision: str | None,
    variant: str | None,
) -> Checkpoint:
    """Open the checkpoint that the options describe."""
    loras = tuple(read_loras(lora))
    left_out = (*without, "safety_checker") if no_safety_checker else tuple(without)
    with StatusLine() as line:
        plain = open_checkpoint(
            model,
            random_weights=random_weights,
            seed=seed,
            revision=revision,
            prediction_type=prediction_type,
            progress=lambda file, done, size: line.update(
                f"downloading {file}: {size_text(done)} of {size_text(size)}"
            ),
            without=left_out,
            vae=vae,
            transformer=transformer,
            pipeline=pipeline,
            variant=variant,
        )
    _check_without(plain, without)
    joined = plain.with_controlnets(controlnet).with_t2i_adapters(t2i_adapter)
    whole = joined.with_ip_adapters(ip_adapter, image_encoder).with_loras(loras)
    return whole.with_attention_control(asked=attention_control)


def _check_without(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    """Refuse names of --without that are no parts which the checkpoint may lack, and has."""
    kinds = find_family(checkpoint.model_index).components
    optional = tuple(dict.fromkeys(kind.source for kind in kinds if kind.optional))
    for name in names:
        if name not in optional:
            expected = f"one of {', '.join(optional)}" if optional else "none: this checkpoint needs all of its parts"
            raise InputError(f"--without: got {name!r}, expected {expected}.{did_you_mean(name, optional)}")


def read_loras(texts: Sequence[str]) -> Iterator[FusedLora]:
    """Read the LoRAs of --lora, with their checksums.

    Raises:
        InputError: A file is missing or pickled, or a scale is no number.
    """
    for text in texts:
        path, scale = parse_lora(text)
        check_not_pickled(Path(path))
        if not Path(path).is_file():
            raise InputError(f"--lora: got {path!r}, which is no file, expected a LoRA in safetensors")
        yield FusedLora(file=path, scale=scale, sha256=sha256_of(Path(path)))


def _print_report(report: "ExportReport", output: Path, seconds: float, *, as_json: bool) -> None:
    total = sum(file.size for file in report.manifest.files.values())
    if as_json:
        print_json(
            {
                "bundle": os.fspath(output),
                "seconds": round(seconds, 3),
                "bytes": total,
                "kept": list(report.kept),
                "jobs": jobs_json(report.done),
            }
        )
        return
    out.print(jobs_table(report.done, report.kept, report.manifest))
    tell_engine_notes(report.manifest)
    out.print(f"{output}: {size_text(total)} in {seconds:.1f} s", soft_wrap=True)

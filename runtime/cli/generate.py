"""`diffoundry generate`: generates images with a bundle."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime.cli.adapters import adapter_options
from diffoundry.runtime.cli.approximation_options import (
    approximation_options,
)
from diffoundry.runtime.cli.array_files import ARRAY_SUFFIXES, check_arrays, write_arrays
from diffoundry.runtime.cli.attention_options import (
    ATTENTION_SETTINGS,
    attention_options,
    save_heat_maps,
)
from diffoundry.runtime.cli.bulk_command import check_resume, generate_bulk, tell_bulk
from diffoundry.runtime.cli.bulk_job import BulkJob
from diffoundry.runtime.cli.bulk_ray import check_ray
from diffoundry.runtime.cli.console import bar, print_json, remark, warn
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.image_settings import ImageSettings, is_same_bundle
from diffoundry.runtime.cli.joined_networks import (
    JOINED_FILES,
    joined_options,
)
from diffoundry.runtime.cli.like import merge_settings, read_like
from diffoundry.runtime.cli.open_pipeline import open_pipeline
from diffoundry.runtime.cli.options import (
    bundles_argument,
    engine_options,
    json_option,
    named_as_typed,
    take_engine_options,
    tell_choice,
)
from diffoundry.runtime.cli.output_files import OutputFiles
from diffoundry.runtime.cli.pipeline_options import (
    pipeline_options,
    take_images,
)
from diffoundry.runtime.cli.prepared_run import ARGUMENTS, PreparedRun
from diffoundry.runtime.cli.prompt_options import prompt_options, take_prompts
from diffoundry.runtime.cli.scheduler_options import SCHEDULER_SETTINGS, scheduler_options
from diffoundry.runtime.cli.systems import system_options
from diffoundry.runtime.cli.vae_options import VAE_SETTINGS, vae_options
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import describe_image_fault
from diffoundry.runtime.images.save import SUFFIXES, TRANSPARENT_SUFFIXES, save_image
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.output import PipelineOutput
from diffoundry.runtime.pipelines.run import Run

__all__ = ["command"]

_SETTINGS = (*ARGUMENTS, *SCHEDULER_SETTINGS, *VAE_SETTINGS, *ATTENTION_SETTINGS)


_image = options_in("Image")

_output = options_in("Output")

_STEPS_HELP = (
    "Steps of the scheduler.  [default: the pipeline's own: 50 for most, 28 for Stable Diffusion 3 and FLUX.1]"
)

_SCALE_HELP = (
    "1 or less turns guidance off.  [default: the pipeline's own: 7.5; Stable Diffusion XL: 5; Stable Diffusion 3: 7; "
    "FLUX.1: 3.5]"
)

_OUTPUT_HELP = (
    "A .png, .jpg or .webp file, or a folder for numbered files; a .safetensors or .npy file where the result is no "
    "image.  [default: out-0001.png, or the next number]"
)

_RESUME_HELP = (
    "Generate each line of --prompts alone, into the folder -o, and skip images that an earlier run of this command "
    "finished."
)

_RAY_HELP = (
    "With --resume: generate on the Ray cluster at HOST:PORT, on that of this machine (auto), or on one that is "
    "started for the command (local)."
)

_LIKE_HELP = "Use the settings of this image, or of a .safetensors file. Options override them."

_EXAMPLES = (
    'diffoundry generate emoji.bundle "red apple" --seed 0 -o apple.png',
    'diffoundry generate emoji.bundle "green apple" --image apple.png --strength 0.7',
    "diffoundry generate emoji.bundle --like apple.png --seed 1 --steps 30",
    'diffoundry generate sd15.bundle "a harbour" --scheduler dpmpp_2m_karras --steps 20 -o images/',
    "diffoundry generate emoji.bundle --prompts prompts.txt --seed 0 -o many/ --resume",
)


@click.command("generate", cls=Command, examples=_EXAMPLES)
@bundles_argument
@click.argument("prompt", nargs=-1)
@_image(
    "--negative",
    "negative_prompt",
    also=("--negative-prompt",),
    help="Negative prompt: what the image should not show.",
)
@_image("--steps", "num_inference_steps", also=("--num-inference-steps",), type=int, help=_STEPS_HELP)
@_image("--guidance-scale", type=float, help=_SCALE_HELP)
@_image("--guidance-rescale", type=float, help="Guidance rescale of Lin et al. 2023. 0 is off.  [default: 0]")
@scheduler_options
@_image("--eta", type=float, help="DDIM's eta.  [default: 0]")
@_image(
    "--seed",
    type=int,
    multiple=True,
    help="Seed of torch's CPU generator. Repeat it to set one for each image.  [default: random, and printed]",
)
@_image("--height", type=click.IntRange(min=1), help="Pixels.  [default: the checkpoint's]")
@_image("--width", type=click.IntRange(min=1), help="Pixels.  [default: the checkpoint's]")
@_image(
    "--num-images",
    "num_images_per_prompt",
    also=("--num-images-per-prompt", "--batch-size"),
    type=int,
    help="Images for each prompt.  [default: 1]",
)
@_image(
    "--like",
    type=click.Path(path_type=Path),
    help="Use the settings of this image, or of a .safetensors file. Options override them.",
)
@_image("--no-safety-checker", is_flag=True, help="Skip the bundle's safety checker.")
@prompt_options
@pipeline_options
@system_options
@joined_options
@attention_options
@adapter_options
@approximation_options
@options_in("Memory")("--low-memory", is_flag=True, help="Load one component at a time.")
@options_in("Memory")("--memory", metavar="SIZE", help="Take at most so much memory, or refuse: 1.5GB.")
@vae_options
@engine_options
@_output("-o", "--output", metavar="PATH", help=_OUTPUT_HELP)
@_output("--resume", is_flag=True, help=_RESUME_HELP)
@_output("--ray", metavar="ADDRESS", help=_RAY_HELP)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    bundle: tuple[Path, ...],
    *,
    like: Path | None,
    output: str | None,
    low_memory: bool,
    memory: str | None,
    no_safety_checker: bool,
    resume: bool,
    ray: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Generate each PROMPT with the bundle DIR and write images that hold their settings.

    PRIOR+DECODER chains bundles: a prior and its decoder, a base model and its refiner, or the stages of a cascade.
    A bundle for image variation needs --image and no PROMPT. Options have diffusers' names, too, such as
    --num-inference-steps.
    """
    started = time.perf_counter()
    with named_as_typed():
        if ray is not None:
            check_ray(ray, values, resume=resume)
        engines = take_engine_options(values)
        engines |= {"low_memory": low_memory, "memory": memory, "safety_checker": not no_safety_checker}
        pipeline = open_pipeline(bundle, **engines)
        for session in pipeline.sessions:
            tell_choice(session)
        if resume:
            check_resume(pipeline, output, values)
        if not pipeline.makes_images:
            check_arrays(pipeline, output)
        suffixes = TRANSPARENT_SUFFIXES if pipeline.transparent else SUFFIXES
        outputs = OutputFiles(f"{output}/" if resume else output, suffixes if pipeline.makes_images else ARRAY_SUFFIXES)
        source = values["prompts_file"]
        take_prompts(values)
        files = _take_files(values)
        preset = values.pop("preset")
        if preset is not None:
            given = {name for name, value in values.items() if value is not None}
            values |= {name: value for name, value in pipeline.preset(preset).items() if name not in given}
        settings, defaulted = _settings(ctx.command, pipeline, like, values, files)
        if resume:
            job = BulkJob(bundles=bundle, engines=engines, settings=settings, defaulted=defaulted, files=files)
            report = generate_bulk(job, pipeline, output, source, ray)
            tell_bulk(report, started, as_json=as_json)
            return
        prepared = PreparedRun.of_command(pipeline, settings, defaulted, files, outputs.example)
        run, kept = prepared.start(outputs.example)
        outputs.prepare()
        result = _generate(run)
        if pipeline.makes_images:
            paths = _save(result, outputs, kept)
            maps = save_heat_maps(result, paths, kept.values)
        else:
            paths, maps = write_arrays(pipeline.result_arrays(result), outputs, kept), []
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        _print_report(result, paths, maps, kept, seconds)
    else:
        _tell_files(paths, kept, seconds)
        for path in maps:
            remark(str(path))


def _take_files(values: dict[str, Any]) -> dict[str, Any]:
    """Move the options that name files out of a command's arguments: setting to a path, or to a list."""
    files: dict[str, Any] = {name: list(values.pop(name)) for name in ("lora", "embedding", *JOINED_FILES)}
    files = {**take_images(values), "control_mask": values.pop("control_mask"), **files}
    return {name: value for name, value in files.items() if value}


def _settings(
    command: click.Command,
    pipeline: PipelineBase,
    like: Path | None,
    values: Mapping[str, Any],
    files: Mapping[str, Any],
) -> tuple[dict[str, Any], frozenset[str]]:
    """Merge the settings of the --like image with the options; also return the names of those that were defaults."""
    settings = {name: value for name, value in values.items() if value is not None and value != []}
    if "num_images_per_prompt" in settings:
        settings[pipeline.image_count_argument] = settings.pop("num_images_per_prompt")
    defaulted: frozenset[str] = frozenset()
    if like is not None:
        image = read_like(like, command, _SETTINGS)
        same = is_same_bundle(pipeline, *image.bundle)
        if not same:
            remark(f"note: {like} was generated with {image.bundle[0]}, so this bundle generates another image")
        settings, defaulted = merge_settings(image, settings, files, same_bundle=same)
    if pipeline.needs_prompt and settings.get("prompt") is None:
        raise InputError("PROMPT: got none, expected a text after DIR, or --like with an image generated by diffoundry")
    return settings, defaulted


def _generate(run: Run[Any]) -> Any:
    with bar() as progress:
        task = progress.add_task("denoising", total=run.total)
        for step in run:
            progress.update(task, completed=step.index + 1)
        progress.update(task, description="decoding")
        return run.finish()


def _save(result: PipelineOutput[Any], outputs: OutputFiles, kept: ImageSettings) -> list[Path]:
    """Save every image, and warn of faults."""
    paths: list[Path] = []
    clean = [False] * kept.count
    verdicts = result.nsfw_content_detected or clean, result.watermark_detected or clean
    for index, (image, flagged, marked) in enumerate(zip(result.images, *verdicts, strict=True)):
        with outputs.name(index, kept.count) as path:
            save_image(image, path, kept.of_image(index))
        paths.append(path)
        fault = None if flagged or marked else describe_image_fault(image)
        if flagged or marked:
            verdict = "flagged" if flagged else "found a watermark in"
            warn(
                f"warning: {path}: the safety checker {verdict} this image, so it is black; try another prompt or "
                f"seed, or pass --no-safety-checker"
            )
        if fault:
            warn(f"warning: {path}: {fault}")
    return paths


def _print_report(
    result: Any, paths: Sequence[Path], maps: Sequence[Path], kept: ImageSettings, seconds: float
) -> None:
    images = [
        {"file": str(path), "prompt": kept.prompt(index), "seed": kept.seed(index)} for index, path in enumerate(paths)
    ]
    print_json(
        {
            "files": [str(path) for path in paths],
            "heat_maps": [str(path) for path in maps],
            "images": images,
            "settings": {**kept.values, **kept.facts},
            "seconds": seconds,
            "truncated": [text for text in result.truncated if text],
            "nsfw_content_detected": getattr(result, "nsfw_content_detected", None),  # embeddings have no flags
            "watermark_detected": getattr(result, "watermark_detected", None),
        }
    )


def _tell_files(paths: Sequence[Path], kept: ImageSettings, seconds: float) -> None:
    """Name the files; of several also the prompt and the seed of each."""
    seeds = kept.values["seed"]
    if len(paths) == 1:
        remark(f"{paths[0]} (seed {seeds}, {seconds:.1f} s)")
        return
    for index, path in enumerate(paths):
        prompt = kept.prompt(index)
        shown = "" if prompt is None else f"{prompt!r}, "
        place = "" if isinstance(seeds, list) else f", image {index + 1} of {len(paths)}"
        remark(f"{path}: {shown}seed {kept.seed(index)}{place}")
    remark(f"{len(paths)} {'files' if paths[0].suffix in ARRAY_SUFFIXES else 'images'} in {seconds:.1f} s")

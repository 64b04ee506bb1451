"""`diffoundry generate`: generates images with a bundle."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from diffoundry.runtime import load
from diffoundry.runtime.cli.adapters import adapter_options, check_like, load_adapters
from diffoundry.runtime.cli.console import bar, print_json, remark
from diffoundry.runtime.cli.control_options import CONTROL_SETTINGS, control_options, read_controls
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.options import (
    bundle_argument,
    engine_options,
    json_option,
    take_engine_options,
    tell_choice,
    unknown_options,
)
from diffoundry.runtime.cli.pipeline_options import PIPELINE_SETTINGS, pipeline_options, read_images, take_images
from diffoundry.runtime.cli.prompt_options import PROMPT_SETTINGS, prompt_options, take_prompts
from diffoundry.runtime.cli.vae_options import VAE_SETTINGS, take_vae_settings, vae_options
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import describe_image_fault
from diffoundry.runtime.images.png import check_png_path, read_settings, save_png
from diffoundry.runtime.pipelines.pipeline import PipelineOutput, Run

__all__ = ["command"]

_SETTINGS = (
    "prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "guidance_rescale", "scheduler", "seed",
    "height", "width", "num_images_per_prompt", "eta", *PROMPT_SETTINGS, *PIPELINE_SETTINGS, *CONTROL_SETTINGS,
    *VAE_SETTINGS,
)  # fmt: skip


_image = options_in("Image")

_output = options_in("Output")

_STEPS_HELP = "Steps of the scheduler.  [default: the pipeline's own: 50 for most, 28 for Stable Diffusion 3]"

_SCALE_HELP = (
    "1 or less turns guidance off.  [default: the pipeline's own: 7.5; Stable Diffusion XL: 5; Stable Diffusion 3: 7]"
)

_EXAMPLES = (
    'diffoundry generate emoji.bundle "red apple" --seed 0 -o apple.png',
    'diffoundry generate emoji.bundle "green apple" --image apple.png --strength 0.7',
    "diffoundry generate emoji.bundle --like apple.png --seed 1 --steps 30",
)


@click.command("generate", cls=Command, examples=_EXAMPLES)
@bundle_argument
@click.argument("prompt", nargs=-1)
@_image("--negative", "negative_prompt", help="Negative prompt: what the image should not show.")
@_image("--steps", "num_inference_steps", type=int, help=_STEPS_HELP)
@_image("--guidance-scale", type=float, help=_SCALE_HELP)
@_image("--guidance-rescale", type=float, help="Guidance rescale of Lin et al. 2023. 0 is off.  [default: 0]")
@_image("--scheduler", help="A scheduler's name, such as EulerDiscrete.  [default: the checkpoint's]")
@_image("--eta", type=float, help="DDIM's eta.  [default: 0]")
@_image(
    "--seed",
    type=int,
    multiple=True,
    help="Seed of torch's CPU generator. Repeat it to set one for each image.  [default: random, and printed]",
)
@_image("--height", type=int, help="Pixels.  [default: the checkpoint's]")
@_image("--width", type=int, help="Pixels.  [default: the checkpoint's]")
@_image("--num-images", "num_images_per_prompt", type=int, help="Images for each prompt.  [default: 1]")
@_image("--like", type=click.Path(path_type=Path), help="Use the settings of this PNG. Options override them.")
@_image("--no-safety-checker", is_flag=True, help="Skip the bundle's safety checker.")
@prompt_options
@pipeline_options
@control_options
@adapter_options
@options_in("Memory")("--low-memory", is_flag=True, help="Load one component at a time.")
@vae_options
@engine_options
@_output("-o", "--output", type=click.Path(path_type=Path), default="out.png", show_default=True, help="A PNG file.")
@json_option
def command(
    bundle: Path,
    *,
    like: Path | None,
    output: Path,
    low_memory: bool,
    no_safety_checker: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Generate each PROMPT with the bundle DIR and write PNG files that hold their settings.

    A bundle for image variation needs --image and no PROMPT.
    """
    started = time.perf_counter()
    checked = not no_safety_checker
    pipeline = load(bundle, low_memory=low_memory, safety_checker=checked, **take_engine_options(values))
    tell_choice(pipeline.session)
    images = take_images(values)
    controls: tuple[Path, ...] = values.pop("control_image")
    take_prompts(values)
    adapters = {name: list(values.pop(name)) for name in ("lora", "embedding")}
    files_again = {**adapters, "control_image": controls}
    settings = _settings(like, values, files_again, texts=bool(pipeline.text_encoders))
    parts = take_vae_settings(pipeline, settings)
    load_adapters(pipeline, adapters["lora"], adapters["embedding"])
    paths = _paths(output, settings)
    with unknown_options(command):
        run = pipeline.start(**settings, **read_images(images), **read_controls(controls))
    _tell_truncated(run, keepable=any(field.name == "long_prompts" for field in fields(pipeline.family.Inputs)))
    ignored = () if controls else pipeline.controlnets.names
    pipeline.session.open_all([name for name in pipeline.used_components if name not in ignored])
    result = _generate(run)
    seed = list(run.seed) if isinstance(run.seed, tuple) else run.seed  # as JSON has it
    shown = {**settings, **_file_names(images, controls), **parts, "seed": seed}
    used = {name: texts for name, texts in adapters.items() if texts}
    files = _save(result, paths, {**shown, "steps_run": run.total, "bundle": bundle.name, **used})
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        report = {"files": files, "settings": shown, "seconds": seconds}
        flags = result.nsfw_content_detected
        print_json({**report, "truncated": list(result.truncated), "nsfw_content_detected": flags})
    else:
        remark(f"{', '.join(files)} (seed {seed}, {seconds:.1f} s)")


def _settings(
    like: Path | None, given: dict[str, Any], files: Mapping[str, Sequence[Any]], *, texts: bool
) -> dict[str, Any]:
    """Merge the settings of the --like image with the options; options win. Files must be passed again."""
    image = read_settings(like) if like else {}
    check_like(image, files)
    settings = {key: value for key, value in image.items() if key in _SETTINGS}
    settings |= {key: value for key, value in given.items() if value is not None}
    if texts and settings.get("prompt") is None:
        raise InputError("PROMPT: got none, expected a text after DIR, or --like with an image generated by diffoundry")
    return settings


def _file_names(images: Mapping[str, Path], controls: Sequence[Path]) -> dict[str, Any]:
    """Names of the image files, for the settings in a PNG."""
    names: dict[str, Any] = {name: path.name for name, path in images.items()}
    return {**names, "control_image": [path.name for path in controls]} if controls else names


def _paths(output: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Name a file for each image: out.png, or out-0.png, out-1.png ... for several."""
    check_png_path(output)
    prompts = settings.get("prompt")
    count = (len(prompts) if isinstance(prompts, list) else 1) * settings.get("num_images_per_prompt", 1)
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in range(count)]


def _tell_truncated(run: Run, *, keepable: bool) -> None:
    """Warn of text that was cut off. `keepable` is True if the pipeline takes --long-prompts."""
    advice = "pass --long-prompts to keep it" if keepable else "shorten the prompt"
    for text in run.truncated:
        if text:
            remark(f"warning: the text encoder takes 77 tokens; this part of the prompt is cut off: {text!r}; {advice}")


def _generate(run: Run) -> PipelineOutput:
    with bar() as progress:
        task = progress.add_task("denoising", total=run.total)
        for step in run:
            progress.update(task, completed=step.index + 1)
        progress.update(task, description="decoding")
        return run.finish()


def _save(result: PipelineOutput, paths: list[Path], settings: dict[str, Any]) -> list[str]:
    flags = result.nsfw_content_detected or [False] * len(paths)
    for index, (image, path, flagged) in enumerate(zip(result.images, paths, flags, strict=True)):
        fault = None if flagged else describe_image_fault(image)
        if flagged:
            remark(
                f"warning: {path}: the safety checker flagged this image, so it is black; try another prompt or "
                f"seed, or pass --no-safety-checker"
            )
        if fault:
            remark(f"warning: {path}: {fault}")
        save_png(image, path, {**settings, "image_index": index})
    return [str(path) for path in paths]

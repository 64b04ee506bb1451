"""Runs of `generate`: everything but prompt and seed is checked and loaded once, for one image or for thousands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffoundry.runtime.cli.adapters import load_adapters
from diffoundry.runtime.cli.approximation_options import APPROXIMATION_SETTINGS, approximation_note
from diffoundry.runtime.cli.attention_options import take_attention_settings
from diffoundry.runtime.cli.console import remark, warn
from diffoundry.runtime.cli.image_settings import ImageSettings
from diffoundry.runtime.cli.joined_networks import JOINED_SETTINGS, read_joined_images, unused_components
from diffoundry.runtime.cli.pipeline_options import IMAGE_FILES, PIPELINE_SETTINGS, read_images
from diffoundry.runtime.cli.prompt_notes import prompt_notes, size_note, unused_words
from diffoundry.runtime.cli.prompt_options import PROMPT_SETTINGS
from diffoundry.runtime.cli.scheduler_options import apply_scheduler
from diffoundry.runtime.cli.systems import SYSTEM_SETTINGS
from diffoundry.runtime.cli.vae_options import take_vae_settings
from diffoundry.runtime.images.save import check_settings
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.run import Run

__all__ = ["ARGUMENTS", "PreparedRun", "file_names"]

ARGUMENTS = (
    "prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "guidance_rescale", "seed", "height", "width",
    "num_images_per_prompt", "batch_size", "eta", *APPROXIMATION_SETTINGS, *PROMPT_SETTINGS, *PIPELINE_SETTINGS,
    *JOINED_SETTINGS, *SYSTEM_SETTINGS,
)  # fmt: skip
"""Arguments of a pipeline that an image keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A pipeline with scheduler, VAE options and adapters applied, and the arguments of its runs.

    Attributes:
        pipeline: The pipeline.
        settings: Merged options of the command.
        defaulted: Names in `settings` that were defaults of an earlier run.
        files: Options that name files: setting to a path, or to a list.
        inputs: The files' images as arguments of the pipeline.
        attention: Arguments of edits and heat maps.
        kept: Settings of the VAE and of edits, as an image keeps them.
        words: Words of the embeddings.
        told: Notes and warnings of the options that were printed: thousands of runs print each once.
    """

    pipeline: PipelineBase
    settings: Mapping[str, Any]
    defaulted: frozenset[str]
    files: Mapping[str, Any]
    inputs: Mapping[str, Any]
    attention: Mapping[str, Any]
    kept: Mapping[str, Any]
    words: Sequence[str]
    told: set[str] = field(default_factory=set)

    @classmethod
    def of_command(
        cls,
        pipeline: PipelineBase,
        settings: dict[str, Any],
        defaulted: frozenset[str],
        files: Mapping[str, Any],
        example: Path,
    ) -> "PreparedRun":
        """Check the settings, and load images and adapters.

        Args:
            pipeline: Its scheduler config and VAE are changed.
            settings: As the attribute.
            defaulted: As the attribute.
            files: As the attribute.
            example: A path of the kind that is written.

        Raises:
            InputError: A setting or a file does not fit the pipeline.
        """
        check_settings(settings, example, (1, 1))  # before prompts of any length are encoded
        images = {name: files[name] for name in IMAGE_FILES if name in files}
        inputs = {**read_images(images, pipeline.argument_names), **read_joined_images(pipeline, files)}
        apply_scheduler(pipeline, settings)
        parts = take_vae_settings(pipeline, settings)
        words = load_adapters(pipeline, files.get("lora", []), files.get("embedding", []))
        attention, edits = take_attention_settings(pipeline, settings)
        return cls(
            pipeline=pipeline,
            settings=settings,
            defaulted=defaulted,
            files=files,
            inputs=inputs,
            attention=attention,
            kept={**parts, **edits},
            words=words,
        )

    def start(self, example: Path, **changed: Any) -> tuple[Run[Any], ImageSettings]:
        """Begin a run.

        Args:
            example: A path of the kind that is written.
            changed: Replaced settings, such as prompt and seed.

        Raises:
            InputError: The arguments do not fit.
        """
        settings = {**self.settings, **changed}
        arguments = {name: value for name, value in settings.items() if name != "scheduler_options"}
        run = self.pipeline.start(**arguments, **self.attention, **self.inputs)
        named = {name: file_names(value) for name, value in self.files.items()}
        names = [name for name in ARGUMENTS if name in self.pipeline.argument_names]
        kept = ImageSettings.of_run(self.pipeline, run, {**settings, **self.kept, **named}, names, self.defaulted)
        size = run.arguments["width"], run.arguments["height"]
        check_settings(kept.of_image(kept.count - 1), example, size)
        self._tell_notes(run, settings)
        self.pipeline.open_engines(unused_components(self.pipeline, self.files))
        return run, kept

    def _tell_notes(self, run: Run[Any], settings: Mapping[str, Any]) -> None:
        """Warn of text that was cut off, of words that are not used, and of forms that are read as text."""
        pipeline = self.pipeline
        advice = "pass --long-prompts to keep it" if "long_prompts" in pipeline.argument_names else "shorten the prompt"
        for text in filter(None, run.truncated):
            warn(
                f"warning: the text encoder takes fewer tokens; this part of the prompt is cut off: {text!r}; {advice}"
            )
        for word in unused_words(pipeline, settings, self.words):
            text = f"no prompt contains the word {word!r}, so its embedding has no effect; write it into a prompt"
            self._tell(warn, f"warning: {text}")
        large = size_note(pipeline, run.arguments["height"], run.arguments["width"])
        approximate = approximation_note(str(pipeline.session.bundle.root.name), settings)
        for note in [*prompt_notes(pipeline, settings), *filter(None, (large, approximate))]:
            self._tell(remark, f"note: {note}")

    def _tell(self, tell: Callable[[str], None], text: str) -> None:
        """Print a text that was not printed yet."""
        if text not in self.told:
            self.told.add(text)
            tell(text)


def file_names(value: Any) -> Any:
    """Return names of image files without their folders; LoRAs and embeddings as typed."""
    if isinstance(value, list):
        return [file_names(one) for one in value]
    return value.name if isinstance(value, Path) else value

"""The settings that an image keeps: every argument with its value, and what it was generated with."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import diffoundry
from diffoundry.runtime.bundle.specs import Recipe
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.run import Run
from diffoundry.runtime.schedulers import sampler_labels

__all__ = ["ImageSettings", "is_same_bundle", "model_hash"]

_HASH_DIGITS = 10
"""As AUTOMATIC1111 shows a checkpoint file's SHA-256."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """The settings of all images of a run.

    Attributes:
        values: Arguments of the pipeline and options that change the image.
        facts: Bundle, model, engines and version that generate the images.
        count: Number of images.
    """

    values: Mapping[str, Any]
    facts: Mapping[str, Any]
    count: int

    def of_image(self, index: int) -> dict[str, Any]:
        """Return the settings for the file of one image."""
        return {**self.values, **self.facts, "image_index": index}

    def prompt(self, index: int) -> str | None:
        """Return the prompt of one image; None without prompts."""
        prompts = self.values.get("prompt")
        return prompts[index * len(prompts) // self.count] if isinstance(prompts, list) else prompts

    def seed(self, index: int) -> int | None:
        """Return the seed of one image, or of its layer; all share it if the run has one."""
        seed = self.values.get("seed")
        return seed[index * len(seed) // self.count] if isinstance(seed, list) else seed

    @classmethod
    def of_run(
        cls,
        pipeline: PipelineBase,
        run: Run[Any],
        settings: Mapping[str, Any],
        names: Iterable[str],
        defaulted: frozenset[str],
    ) -> "ImageSettings":
        """Describe a run before it begins.

        Args:
            pipeline: The pipeline.
            run: The run.
            settings: Passed to the run, and options that the pipeline does not take as arguments.
            names: Arguments that are kept.
            defaulted: Names in `settings` that were defaults of an earlier run.
        """
        arguments = {name: run.arguments[name] for name in names if name in run.arguments}
        own = (
            {"scheduler": type(run.scheduler).__name__.removesuffix("Scheduler")} if pipeline.has_one_scheduler else {}
        )
        values = {**arguments, **own, **settings, "seed": run.seed}
        values |= {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        labels = () if run.scheduler is None else sampler_labels(run.scheduler)
        facts = {
            **_origin(pipeline),
            **dict(zip(("sampler", "schedule_type"), labels, strict=False)),
            "steps_run": run.total,
            "diffoundry": diffoundry.__version__,
            "defaulted": sorted({name for name in values if name not in settings and name != "seed"} | defaulted),
        }
        return cls(values=values, facts=facts, count=run.count)


def is_same_bundle(pipeline: PipelineBase, name: str | None, digits: str | None) -> bool:
    """Return whether a bundle generated an image, as far as the image says.

    Args:
        pipeline: Of the bundle.
        name: Name of the bundle, kept in the image.
        digits: Hash of the model, kept in the image; it decides where both are known.
    """
    origin = _origin(pipeline)
    if digits is not None and origin.get("model_hash") is not None:
        return bool(digits == origin["model_hash"])
    return name is None or name == origin["bundle"]


def model_hash(recipe: Recipe) -> str | None:
    """Return ten hexadecimal digits that name the weights of a bundle; None without weight files.

    For a checkpoint that is a single file they are those that AUTOMATIC1111 shows for it.
    """
    sums = {name: value for name, value in recipe.source.items() if name.endswith(".safetensors")}
    if len(sums) == 1:
        return next(iter(sums.values()))[:_HASH_DIGITS]
    lines = "\n".join(f"{name} {value}" for name, value in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:_HASH_DIGITS] if sums else None


def _origin(pipeline: PipelineBase) -> dict[str, Any]:
    """Name the bundle, its model, and the engine of the denoiser."""
    bundle = pipeline.session.bundle
    facts: dict[str, Any] = {"bundle": pipeline.bundle_name}
    choice = pipeline.session.choice(pipeline.stepped_component)
    if bundle.manifest is not None:
        facts["model_hash"] = model_hash(bundle.manifest.recipe)
    if choice is not None:
        facts |= {"target": choice.spec.target, "precision": choice.spec.precision, "device": choice.device}
    return facts

"""DiT: images of a class, by a transformer over latents."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.checks.class_labels import ClassLabels, count_labels, read_labels, spread_labels
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import announced
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.dit_transformer_2d import DiTTransformer2DModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.random import Generator

__all__ = ["DiT", "DiTInputs"]

_NULL_CLASS = 1000
"""Class of the unconditional half, which diffusers writes out as a number."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DiTInputs:
    """The arguments of diffusers' `DiTPipeline`.

    Attributes:
        class_labels: Number or name of a class for all images, or one for each. Needed.
        batch_size: Number of images; None for one for each label.
        guidance_scale: 1 or less turns guidance off.
        num_inference_steps: Steps of the scheduler.
        latents: Start noise, float32 (B, C, height/8, width/8), instead of drawing it.
    """

    class_labels: ClassLabels | None = None
    batch_size: int | None = None
    guidance_scale: float = 4.0
    num_inference_steps: int = 50
    latents: FloatArray | None = None

    def check(self) -> None:
        """Refuse a scale that is no number.

        Raises:
            InputError: As said.
        """
        check_number("guidance_scale", self.guidance_scale, -1e6, 1e6)


class DiT(StagedPipeline):
    """diffusers: `DiTPipeline`.

    Latents start as the noise itself, and a step starts from the scaled latents. With guidance the scheduler steps
    both halves, and the first, that of the class, goes on: a scheduler that draws noise draws it for both. diffusers
    draws that from torch's global generator: images are the same where the call's generator is `torch.manual_seed(n)`.

    Peebles and Xie 2022, https://arxiv.org/abs/2212.09748.
    """

    Inputs: ClassVar[type[Any]] = DiTInputs
    label: ClassVar[str] = "images of a class"
    own_loop: ClassVar[bool] = True

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.transformer = self.denoiser = DiTTransformer2DModel(session)
        self.vae = open_vae(session)

    @cached_property
    def labels(self) -> dict[str, int]:
        """Name of a class to its number, sorted by name; empty where model_index.json has no `id2label`.

        A class may have several names, such as "tench, Tinca tinca".

        Raises:
            BundleError: It is damaged.
        """
        table = self.session.bundle.model_index.get("id2label") or {}
        try:
            pairs = {
                name.strip(): int(number) for number, names in dict(table).items() for name in str(names).split(",")
            }
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"bundle {self.session.bundle.root}: model_index.json: field 'id2label': got something else than "
                f"numbers with names; export the bundle again"
            ) from error
        return dict(sorted(pairs.items()))

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Return the numbers of classes by their names; diffusers: `DiTPipeline.get_label_ids`.

        Raises:
            InputError: A name is unknown.
        """
        names = [label] if isinstance(label, str) else list(label)
        return [int(number) for number in read_labels(names, len(names), self.transformer.class_count, self.labels)]

    @property
    def scale_factor(self) -> int:
        """See `PipelineBase`."""
        return self.vae.scale_factor

    def images(self, inputs: Any) -> int:
        """See `StagedPipeline`."""
        return int(inputs.batch_size or count_labels(inputs.class_labels))

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler, classes = call.inputs, call.scheduler, self.transformer.class_count
        channels = self.transformer.in_channels
        given = self.transformer.out_channels
        scheduler.check_loop(channels=channels, output_channels=channels if given == 2 * channels else given)
        scheduler.set_timesteps(inputs.num_inference_steps)
        labels = read_labels(inputs.class_labels, call.images, classes, self.labels, has_null=True)
        guided = inputs.guidance_scale > 1
        if guided:
            labels = np.concatenate([labels, np.full_like(labels, min(_NULL_CLASS, classes))])
        return [
            Stage(
                name="denoising",
                total=len(scheduler.model_timesteps),
                run=lambda _: self._run(call, {"class_labels": cast("FloatArray", labels)}, guided=guided),
            )
        ]

    def _run(self, call: StagedCall, conditioning: Mapping[str, FloatArray], *, guided: bool) -> Iterator[Step]:
        """Denoise with the class alone, or with both halves."""
        scheduler, scale = call.scheduler, call.inputs.guidance_scale
        shape = self.transformer.latent_shape(call.images, *call.size, self.vae)
        latents, generator = call.start_noise(shape, call.inputs.latents), call.generator
        if guided and isinstance(generator, Sequence):
            generator = cast("Sequence[Generator]", [*generator, *generator])
        timesteps = scheduler.model_timesteps
        for index, timestep in enumerate(announced(timesteps)):
            if call.stops():
                return
            rows = np.concatenate([latents, latents]) if guided else latents
            rows = scheduler.scale_model_input(rows, timestep)
            output = self.transformer(rows, timestep, conditioning)
            if guided:
                output = self._guide(output, scale)
            if self.transformer.out_channels == 2 * self.transformer.in_channels:
                output = output[:, : self.transformer.in_channels]  # the others are the learned variance
            result = scheduler.loop_step(output, timestep, rows, generator=generator)
            latents = call.finish_step(index, float(timestep), result.prev_sample[: call.images])
            yield Step(index=index, total=len(timesteps), timestep=float(timestep), latents=latents)

    def _guide(self, output: FloatArray, scale: float) -> FloatArray:
        """Combine the noise of both halves; further channels, which predict a variance, stay as they are."""
        noise, rest = np.split(output, [self.transformer.in_channels], axis=1)
        conditional, unconditional = np.split(noise, 2)
        combined = unconditional + np.float32(scale) * (conditional - unconditional)
        return np.concatenate([np.concatenate([combined, combined]), rest], axis=1)

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`: the first class."""
        return {**super().setting_arguments(steps, guidance_scale), "class_labels": [0]}

    def varied_arguments(self, seeds: Sequence[int]) -> dict[str, Any]:
        """See `PipelineBase`."""
        return {"class_labels": spread_labels(seeds, self.transformer.class_count)}

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: latents in the scheduler's scale."""
        if output_type == "latent":
            return latents
        return postprocess(self.vae.decode(self.vae.denormalize(latents)), output_type)

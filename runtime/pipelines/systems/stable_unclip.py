"""Stable unCLIP: latent diffusion conditioned on a prompt and on a noised image embedding."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.clip_vision import CLIPVisionModelWithProjection
from diffoundry.runtime.models.image_normalizer import StableUnCLIPImageNormalizer
from diffoundry.runtime.models.prior_transformer import PriorTransformer
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.families.base import EncodeOptions
from diffoundry.runtime.pipelines.families.stable_diffusion import StableDiffusion
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Condition, Guidance, Unguided
from diffoundry.runtime.pipelines.image_prompts import encode_image_prompts
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage, StagedRun
from diffoundry.runtime.pipelines.systems.stable_unclip_inputs import (
    NoisedInputs,
    StableUnCLIPImageInputs,
    StableUnCLIPInputs,
)
from diffoundry.runtime.pipelines.systems.unclip_prior import encode_texts, prior_stage, repeat_texts
from diffoundry.runtime.schedulers import Scheduler
from diffoundry.runtime.schedulers.algorithms.unclip import UnCLIPScheduler
from diffoundry.runtime.schedulers.arithmetic.float32 import exp

__all__ = ["StableUnCLIP", "StableUnCLIPImage"]

_NOISING = "image_noising_scheduler"

_LONGEST_PERIOD = 10000
"""Of the sines that embed a noise level. diffusers: `get_timestep_embedding`."""


class _Noised(StagedPipeline):
    """The last stage, which both pipelines have: Stable Diffusion with class labels made of an image embedding."""

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self._texts = StableDiffusion(session)
        self.denoiser = self._texts.denoiser
        self.text_encoders = self._texts.text_encoders
        self._normalizer = StableUnCLIPImageNormalizer(session)
        self.vae = open_vae(session)

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent."""
        return self.vae.scale_factor

    def size_multiple(self) -> int:
        """See `StagedPipeline`."""
        return self.vae.scale_factor

    def truncated(self, inputs: NoisedInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        texts = inputs.texts()
        if not texts:
            return ("",) * inputs.count
        encoder = self.text_encoders[0]
        assert isinstance(encoder, CLIPTextModel)
        prompts = encoder.tokenize(texts, weighting=inputs.prompt_weighting, long=inputs.long_prompts)
        return tuple(prompt.cut for prompt in prompts)

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`."""
        if output_type == "latent":
            return latents
        return postprocess(self.vae.decode(self.vae.denormalize(latents)), output_type)

    def _noise(self, call: StagedCall, embeds: FloatArray) -> FloatArray:
        """Noise image embeddings (B, D), and append the sines of the noise level: (B, 2 D).

        diffusers: `StableUnCLIPPipeline.noise_image_embeddings`.
        """
        level, scheduler = int(call.inputs.noise_level), call.schedulers[_NOISING]
        levels = np.full(len(embeds), level, np.int64)
        noised = scheduler.add_noise(self._normalizer.scale(embeds), call.randn(embeds.shape), levels)
        sines = np.repeat(_embed_level(level, embeds.shape[1])[None], len(embeds), axis=0)
        return np.concatenate([self._normalizer.unscale(noised), sines], axis=1)

    def _check_level(self, call: StagedCall) -> None:
        """Refuse a noise level that the scheduler of the embeddings was not made for.

        Raises:
            InputError: As said.
        """
        most = int(call.schedulers[_NOISING].config.get("num_train_timesteps", 1000)) - 1
        if call.inputs.noise_level > most:
            raise InputError(f"noise_level: got {call.inputs.noise_level}, expected a whole number from 0 to {most}")

    def _denoising_stage(self, call: StagedCall, embed: Callable[[FloatArray | None], FloatArray]) -> Stage:
        """Return the stage of the latents.

        Args:
            call: The call.
            embed: Returns the class labels (B, 2 D) from the result of the stage before.
        """
        inputs, scheduler = call.inputs, call.scheduler
        shape = self.denoiser.latent_shape(call.images, *call.size, self.vae)
        scheduler.check_latents(scaled=True)
        scheduler.check_loop(channels=shape[1], output_channels=self.denoiser.out_channels, eta=inputs.eta)
        scheduler.set_timesteps(inputs.num_inference_steps)
        scale = inputs.guidance_scale
        guidance: Guidance = ClassifierFreeGuidance(scale=scale) if scale > 1 else Unguided()
        condition = self._texts.encode(
            inputs, EncodeOptions(*call.size, inputs.num_images_per_prompt, guidance.guided, from_image=False)
        )

        def run(latents: FloatArray | None) -> Iterator[Step]:
            feeds = guidance.feeds(_labelled(condition, embed(latents)))

            def predict(sample: FloatArray, timestep: float, _index: int) -> FloatArray:
                return guidance.combine(self.denoiser(np.concatenate([sample] * guidance.copies), timestep, feeds))

            return call.denoise(predict, self.start_latents(call, shape), eta=inputs.eta)

        return Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)

    def start_latents(self, call: StagedCall, shape: Sequence[int]) -> FloatArray:
        """Return the first latents, as the scheduler scales noise."""
        return call.start_noise(shape, call.inputs.latents) * np.float32(call.scheduler.init_noise_sigma)


class StableUnCLIP(_Noised):
    """Text to image, by way of an image embedding. diffusers: `StableUnCLIPPipeline`."""

    Inputs: ClassVar[type[Any]] = StableUnCLIPInputs
    label: ClassVar[str] = "images of a prompt"
    scheduler_folders: ClassVar[tuple[str, ...]] = ("prior_scheduler", _NOISING, "scheduler")

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        _Noised.open_networks(self, session)
        self._prior = PriorTransformer(session)
        self._prior_encoder = CLIPTextModel(session, "prior_text_encoder")
        self.text_encoders = (*self._texts.text_encoders, self._prior_encoder)

    def open_scheduler(self, folder: str, config: Mapping[str, Any]) -> Scheduler[Any]:
        """See `StagedPipeline`.

        Raises:
            ConfigError: An UnCLIPScheduler, which diffusers' pipeline does not tell the timestep that follows.
        """
        scheduler = _Noised.open_scheduler(self, folder, config)
        if folder == "prior_scheduler" and isinstance(scheduler, UnCLIPScheduler):
            raise ConfigError(
                "prior_scheduler/scheduler_config.json: field '_class_name': got 'UnCLIPScheduler', expected "
                "'DDPMScheduler' or another: diffusers runs this pipeline wrongly with it; change the name, and keep "
                "the other fields"
            )
        return scheduler

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`: both stages have a number of steps and a guidance scale."""
        own = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
        return {**own, **{f"prior_{name}": value for name, value in own.items()}}

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, prior, scheduler = call.inputs, self._prior, call.schedulers["prior_scheduler"]
        self._check_level(call)
        scheduler.check_loop(channels=prior.width, output_channels=prior.returned)
        call.set_stage_timesteps(scheduler, "prior_num_inference_steps")
        guided = inputs.prior_guidance_scale > 1
        texts = repeat_texts(
            encode_texts(self._prior_encoder, inputs.texts()),
            inputs.num_images_per_prompt,
            self._prior_encoder,
            guided=guided,
        )
        return [
            prior_stage(
                call,
                prior,
                scheduler,
                texts,
                inputs.prior_guidance_scale if guided else None,
                eta=inputs.eta if scheduler.takes_eta else 0.0,
                scale_input=True,
            ),
            self._denoising_stage(call, lambda latents: self._labels(call, latents)),
        ]

    def _labels(self, call: StagedCall, latents: FloatArray | None) -> FloatArray:
        assert latents is not None, "the prior runs before"
        return self._noise(call, self._prior.post_process_latents(latents))


class StableUnCLIPImage(_Noised):
    """Variations of an image, with a prompt or without. diffusers: `StableUnCLIPImg2ImgPipeline`."""

    Inputs: ClassVar[type[Any]] = StableUnCLIPImageInputs
    label: ClassVar[str] = "variations of an image"
    scheduler_folders: ClassVar[tuple[str, ...]] = (_NOISING, "scheduler")

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        _Noised.open_networks(self, session)
        self._image_encoder = CLIPVisionModelWithProjection(session)

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`."""
        return ("image",)

    @property
    def takes_size(self) -> bool:
        """See `PipelineBase`: the image is a prompt, whose size is not that of the result."""
        return True

    @property
    def needs_prompt(self) -> bool:
        """See `PipelineBase`: an image is enough."""
        return False

    def start(self, prompt: Any = None, **arguments: Any) -> StagedRun:
        """See `StagedPipeline.start`; without a prompt, every image has the empty one."""
        if prompt is None and arguments.get("prompt_embeds") is None:
            images: list[Any] = [arguments.get(name) for name in ("image", "image_embeds")]
            counted = [len(one) for one in images if isinstance(one, list | tuple) or hasattr(one, "shape")]
            prompt = [""] * max([1, *counted])
        return StagedPipeline.start(self, prompt, **arguments)

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs = call.inputs
        self._check_level(call)
        given = inputs.image_embeds
        embeds = encode_image_prompts(self._image_encoder, inputs.image) if given is None else given.astype(np.float32)
        copies = call.images // len(embeds)
        # Of images with generators of their own, each draws a noise of its own.
        early = copies if isinstance(call.generator, Sequence) else 1

        def label(_: FloatArray | None) -> FloatArray:
            labels = self._noise(call, np.repeat(embeds, early, axis=0))
            return np.repeat(labels, copies // early, axis=0)

        return [self._denoising_stage(call, label)]

    def start_latents(self, call: StagedCall, shape: Sequence[int]) -> FloatArray:
        """Return the first latents; the caller's are taken as they are, as diffusers' pipeline does."""
        if call.inputs.latents is None:
            return _Noised.start_latents(self, call, shape)
        return call.start_noise(shape, call.inputs.latents)


def _labelled(condition: Condition, labels: FloatArray) -> Condition:
    """Add class labels to a condition; those of the unconditional half are zeros."""
    unconditional = condition.unconditional
    return Condition(
        conditional={**condition.conditional, "class_labels": labels},
        unconditional=None if unconditional is None else {**unconditional, "class_labels": np.zeros_like(labels)},
        truncated=condition.truncated,
    )


def _embed_level(level: int, width: int) -> FloatArray:
    """Return cosines, then sines of a noise level, float32 (width,). diffusers: `get_timestep_embedding`."""
    half = width // 2
    exponents = np.float32(-np.log(_LONGEST_PERIOD)) * np.arange(half, dtype=np.float32) / np.float32(half)
    angles = np.float32(level) * exp(exponents)
    return np.pad(np.concatenate([np.cos(angles), np.sin(angles)]), (0, width % 2)).astype(np.float32)

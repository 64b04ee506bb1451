"""unCLIP: a prompt to an image embedding, the embedding to a small image, the small image to a large one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.clip_vision import CLIPVisionModelWithProjection
from diffoundry.runtime.models.prior_transformer import PriorTransformer
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.unclip_text_proj import UnCLIPTextProjModel
from diffoundry.runtime.models.unet_2d import UNet2DModel
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.image_prompts import encode_image_prompts
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.unclip_inputs import DecoderInputs, UnCLIPImageInputs, UnCLIPInputs
from diffoundry.runtime.pipelines.systems.unclip_prior import (
    EncodedTexts,
    encode_texts,
    guided,
    prior_stage,
    repeat_texts,
)
from diffoundry.runtime.schedulers import Scheduler
from diffoundry.runtime.schedulers.algorithms.unclip import UnCLIPScheduler
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["UnCLIP", "UnCLIPImageVariation"]

_SUPER_RES = "super_res_scheduler"


class _Decoding(StagedPipeline):
    """The two last stages, which all unCLIP pipelines have, and their texts."""

    only_scheduler: ClassVar[str | None] = UnCLIPScheduler.__name__

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self._text_encoder = CLIPTextModel(session)
        self.text_encoders = (self._text_encoder,)
        self._project = UnCLIPTextProjModel(session)
        self._decoder = UNet2DConditionModel(session, "decoder")
        self._super_res_first = self.denoiser = UNet2DModel(session, "super_res_first")
        self._super_res_last = UNet2DModel(session, "super_res_last")

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`: every stage has a number of steps, and all but the last a guidance scale."""
        settings = {
            "_num_inference_steps": (max(steps, 2), ("prior", "decoder", "super_res")),
            "_guidance_scale": (guidance_scale, ("prior", "decoder")),
        }
        arguments = {f"{name}{end}": value for end, (value, names) in settings.items() for name in names}
        return {name: value for name, value in arguments.items() if name in self.argument_names}

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: pixels from -1..1."""
        return postprocess(latents, output_type)

    def _scheduler(self, call: StagedCall, name: str, channels: int, output_channels: int) -> Scheduler[Any]:
        """Return the scheduler of a stage, "prior", "decoder" or "super_res", its timesteps set.

        Raises:
            InputError: It is of another class, or does not fit the network's output.
        """
        scheduler = call.schedulers[f"{name}_scheduler"]
        if not isinstance(scheduler, UnCLIPScheduler):
            raise InputError(
                f"scheduler: got {type(scheduler).__name__}, expected UnCLIPScheduler: unCLIP checkpoints run with no "
                f"other; leave it out"
            )
        scheduler.check_loop(channels=channels, output_channels=output_channels)
        call.set_stage_timesteps(scheduler, f"{name}_num_inference_steps")
        return scheduler

    def _rows(self, texts: EncodedTexts, inputs: DecoderInputs) -> EncodedTexts:
        """Return a row an image, those of the empty prompt first where there is guidance."""
        return repeat_texts(texts, inputs.num_images_per_prompt, self._text_encoder, guided=inputs.guided)

    def _decoder_stage(
        self, call: StagedCall, texts: EncodedTexts, embed: Callable[[FloatArray | None], FloatArray]
    ) -> Stage:
        """Return the stage of the small image.

        Args:
            call: The call.
            texts: With unconditional rows.
            embed: Returns the image embeddings (B, D) from the result of the stage before.
        """
        inputs, decoder = call.inputs, self._decoder
        channels, size = decoder.in_channels, decoder.sample_size or (64, 64)
        scheduler = self._scheduler(call, "decoder", channels, decoder.out_channels)

        def run(latents: FloatArray | None) -> Iterator[Step]:
            condition = self._project(embed(latents), texts.vectors, texts.states)
            ones = np.ones((len(texts.mask), self._project.extra), np.float32)
            conditioning = {
                "encoder_hidden_states": condition.encoder_hidden_states,
                "class_labels": condition.class_labels,
                "attention_mask": np.concatenate([ones, texts.mask], axis=1),
            }

            def call_decoder(sample: FloatArray, timestep: float, _index: int) -> FloatArray:
                return decoder(sample, timestep, conditioning)

            predict = guided(call_decoder, inputs.decoder_guidance_scale) if inputs.guided else call_decoder
            noise = call.start_noise((call.images, channels, *size), inputs.decoder_latents, "decoder_latents")
            return call.denoise(predict, noise, scheduler=scheduler, scale_input=False, last=False)

        return Stage(name="decoder", total=len(scheduler.model_timesteps), run=run)

    def _super_res_stage(self, call: StagedCall) -> Stage:
        """Return the stage of the large image; its last step has a network of its own."""
        first, last = self._super_res_first, self._super_res_last
        channels = first.in_channels // 2
        scheduler = self._scheduler(call, "super_res", channels, first.out_channels)
        total = len(scheduler.model_timesteps)

        def run(latents: FloatArray | None) -> Iterator[Step]:
            assert latents is not None, "the decoder runs before"
            noise = call.start_noise(
                (call.images, channels, *call.size), call.inputs.super_res_latents, "super_res_latents"
            )
            small = np.clip(latents, -1, 1)
            enlarged = resample(small, call.size, "bicubic", antialias=True)

            def predict(sample: FloatArray, timestep: float, index: int) -> FloatArray:
                network = last if index + 1 == total else first
                return network(np.concatenate([sample, enlarged], axis=1), timestep, {})

            return call.denoise(predict, noise, scheduler=scheduler, scale_input=False)

        return Stage(name="super_res", total=total, run=run)


class UnCLIP(_Decoding):
    """Text to image. diffusers: `UnCLIPPipeline`.

    Ramesh et al. 2022, https://arxiv.org/abs/2204.06125.
    """

    Inputs: ClassVar[type[Any]] = UnCLIPInputs
    label: ClassVar[str] = "images of a prompt"
    scheduler_folders: ClassVar[tuple[str, ...]] = ("prior_scheduler", "decoder_scheduler", _SUPER_RES)

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        _Decoding.open_networks(self, session)
        self._prior = PriorTransformer(session)

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, prior = call.inputs, self._prior
        texts = self._rows(self._given_texts(inputs), inputs)
        scheduler = self._scheduler(call, "prior", prior.width, prior.returned)
        return [
            prior_stage(call, prior, scheduler, texts, inputs.prior_guidance_scale if inputs.guided else None),
            self._decoder_stage(call, texts, self._image_embeddings),
            self._super_res_stage(call),
        ]

    def truncated(self, inputs: UnCLIPInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        texts = inputs.texts()
        prompts = self._text_encoder.tokenize(texts, weighting=False, long=False) if texts else ()
        return tuple(prompt.cut for prompt in prompts)

    def _given_texts(self, inputs: UnCLIPInputs) -> EncodedTexts:
        if inputs.text_model_output is None:
            return encode_texts(self._text_encoder, inputs.texts())
        vectors, states = (array.astype(np.float32) for array in inputs.text_model_output)
        return EncodedTexts(vectors=vectors, states=states, mask=inputs.text_attention_mask.astype(np.float32))

    def _image_embeddings(self, latents: FloatArray | None) -> FloatArray:
        assert latents is not None, "the prior runs before"
        return self._prior.post_process_latents(latents)


class UnCLIPImageVariation(_Decoding):
    """Variations of an image. diffusers: `UnCLIPImageVariationPipeline`."""

    Inputs: ClassVar[type[Any]] = UnCLIPImageInputs
    label: ClassVar[str] = "variations of an image"
    scheduler_folders: ClassVar[tuple[str, ...]] = ("decoder_scheduler", _SUPER_RES)

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        _Decoding.open_networks(self, session)
        self.text_encoders = ()  # the caller passes no text: only the empty prompt is encoded
        self._image_encoder = CLIPVisionModelWithProjection(session)

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`."""
        return ("image",)

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs = call.inputs
        given = inputs.image_embeddings
        embeddings = encode_image_prompts(self._image_encoder, inputs.image) if given is None else given
        rows = np.repeat(embeddings.astype(np.float32), inputs.num_images_per_prompt, axis=0)
        texts = self._rows(encode_texts(self._text_encoder, [""] * inputs.count), inputs)
        return [self._decoder_stage(call, texts, lambda _: rows), self._super_res_stage(call)]

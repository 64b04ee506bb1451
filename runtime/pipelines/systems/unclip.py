"""unCLIP: a prompt to an image embedding, the embedding to a small image, the small image to a large one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from diffoundry.runtime.pipelines.denoising import Predict, Step
from diffoundry.runtime.pipelines.image_prompts import encode_image_prompts
from diffoundry.runtime.pipelines.staged import Stage, StagedCall, StagedPipeline
from diffoundry.runtime.pipelines.systems.unclip_inputs import DecoderInputs, UnCLIPImageInputs, UnCLIPInputs
from diffoundry.runtime.schedulers import Scheduler
from diffoundry.runtime.schedulers.algorithms.unclip import UnCLIPScheduler
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["UnCLIP", "UnCLIPImageVariation"]

_SUPER_RES = "super_res_scheduler"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Texts:
    """Encoded prompts, one row an image, the unconditional half first where there is guidance.

    Attributes:
        vectors: float32 (B, D).
        states: float32 (B, tokens, D).
        mask: float32 (B, tokens).
    """

    vectors: FloatArray
    states: FloatArray
    mask: FloatArray


class _Decoding(StagedPipeline):
    """The two last stages, which all unCLIP pipelines have, and their texts."""

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
        scheduler.set_timesteps(getattr(call.inputs, f"{name}_num_inference_steps"))
        return scheduler

    def _encode(self, texts: Sequence[str]) -> _Texts:
        encoder = self._text_encoder
        prompts = encoder.tokenize(texts, weighting=False, long=False)
        outputs = encoder.encode(prompts, 1).outputs
        return _Texts(
            vectors=outputs["text_embeds"], states=outputs["last_hidden_state"], mask=encoder.attention_mask(prompts)
        )

    def _rows(self, texts: _Texts, inputs: DecoderInputs) -> _Texts:
        """Repeat prompts for the images of each, and prepend the empty prompt for guidance."""
        rows = [np.repeat(part, inputs.num_images_per_prompt, axis=0) for part in _parts(texts)]
        if inputs.guided:
            empty = _parts(self._encode([""]))
            rows = [
                np.concatenate([np.repeat(one, len(row), axis=0), row]) for one, row in zip(empty, rows, strict=True)
            ]
        return _Texts(vectors=rows[0], states=rows[1], mask=rows[2])

    def _decoder_stage(
        self, call: StagedCall, texts: _Texts, embed: Callable[[FloatArray | None], FloatArray]
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

            predict = _guided(call_decoder, inputs.decoder_guidance_scale) if inputs.guided else call_decoder
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
        texts = self._rows(self._given_texts(call.inputs), call.inputs)
        return [
            self._prior_stage(call, texts),
            self._decoder_stage(call, texts, self._image_embeddings),
            self._super_res_stage(call),
        ]

    def truncated(self, inputs: UnCLIPInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        texts = inputs.texts()
        prompts = self._text_encoder.tokenize(texts, weighting=False, long=False) if texts else ()
        return tuple(prompt.cut for prompt in prompts)

    def _given_texts(self, inputs: UnCLIPInputs) -> _Texts:
        if inputs.text_model_output is None:
            return self._encode(inputs.texts())
        vectors, states = (array.astype(np.float32) for array in inputs.text_model_output)
        return _Texts(vectors=vectors, states=states, mask=inputs.text_attention_mask.astype(np.float32))

    def _image_embeddings(self, latents: FloatArray | None) -> FloatArray:
        assert latents is not None, "the prior runs before"
        return self._prior.post_process_latents(latents)

    def _prior_stage(self, call: StagedCall, texts: _Texts) -> Stage:
        inputs, prior = call.inputs, self._prior
        shape = prior.latent_shape(call.images)
        scheduler = self._scheduler(call, "prior", shape[1], prior.returned)
        conditioning = {
            "proj_embedding": texts.vectors,
            "encoder_hidden_states": texts.states,
            "attention_mask": texts.mask,
        }

        def call_prior(sample: FloatArray, timestep: float, _index: int) -> FloatArray:
            return prior(sample, timestep, conditioning)

        def run(_: FloatArray | None) -> Iterator[Step]:
            predict = _guided(call_prior, inputs.prior_guidance_scale) if inputs.guided else call_prior
            noise = call.start_noise(shape, inputs.prior_latents, "prior_latents")
            return call.denoise(predict, noise, scheduler=scheduler, scale_input=False, last=False)

        return Stage(name="prior", total=len(scheduler.model_timesteps), run=run)


class UnCLIPImageVariation(_Decoding):
    """Variations of an image. diffusers: `UnCLIPImageVariationPipeline`."""

    Inputs: ClassVar[type[Any]] = UnCLIPImageInputs
    label: ClassVar[str] = "variations of an image"
    scheduler_folders: ClassVar[tuple[str, ...]] = ("decoder_scheduler", _SUPER_RES)

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        _Decoding.open_networks(self, session)
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
        texts = self._rows(self._encode([""] * inputs.count), inputs)
        return [self._decoder_stage(call, texts, lambda _: rows), self._super_res_stage(call)]


def _parts(texts: _Texts) -> tuple[FloatArray, FloatArray, FloatArray]:
    return texts.vectors, texts.states, texts.mask


def _guided(predict: Predict, scale: float) -> Predict:
    """Return a model with guidance; a predicted variance is that of the conditional half.

    diffusers: section "decoder" of `UnCLIPPipeline.__call__`.
    """

    def guided(sample: FloatArray, timestep: float, index: int) -> FloatArray:
        unconditional, conditional = np.split(predict(np.concatenate([sample, sample]), timestep, index), 2)
        means = [half[:, : sample.shape[1]] for half in (unconditional, conditional)]
        mean = means[0] + np.float32(scale) * (means[1] - means[0])
        return np.concatenate([mean, conditional[:, sample.shape[1] :]], axis=1)

    return guided

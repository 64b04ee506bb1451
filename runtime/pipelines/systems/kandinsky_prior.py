"""The prior of Kandinsky 2: a prompt, and possibly an image, to embeddings for a Kandinsky decoder."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, check_numbers
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.tensors import is_tensor, to_array
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.clip_text_mask import attention_mask
from diffoundry.runtime.models.clip_vision import CLIPVisionModelWithProjection
from diffoundry.runtime.models.prior_transformer import PriorTransformer
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.kandinsky_prior_inputs import (
    ImageEmbeddings,
    KandinskyPriorImageInputs,
    KandinskyPriorInputs,
)
from diffoundry.runtime.pipelines.tasks.schedule import add_noise
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch
from diffoundry.runtime.random import GeneratorInput
from diffoundry.runtime.random.seeds import make_generators
from diffoundry.runtime.schedulers.algorithms.unclip import UnCLIPScheduler

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["KandinskyPrior", "draw_embeddings"]


def draw_embeddings(rows: FloatArray, limit: float) -> FloatArray:
    """Return embeddings (B, D) as images of one row of grey pixels, float32 (B, 1, D, 3) in 0..1.

    Args:
        rows: As a prior's scheduler has them.
        limit: The number that is white; its negative is black. diffusers: `clip_sample_range`.
    """
    grey = np.clip(rows / (2 * limit) + 0.5, 0, 1).astype(np.float32)
    return np.repeat(grey[:, None, :, None], 3, axis=-1)


class KandinskyPrior(StagedPipeline):
    """diffusers: `KandinskyPriorPipeline`, `KandinskyV22PriorPipeline`, `KandinskyV22PriorEmb2EmbPipeline`.

    Razzhigaev et al. 2023, https://arxiv.org/abs/2310.03502.

    Attributes:
        prior: Predicts the embedding of an image.
    """

    Inputs: ClassVar[type[Any]] = KandinskyPriorInputs
    label: ClassVar[str] = "embeddings of images"
    only_scheduler: ClassVar[str | None] = UnCLIPScheduler.__name__
    makes_images = False

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.prior = PriorTransformer(session)
        self._text_encoder = CLIPTextModel(session)
        self._image_encoder = CLIPVisionModelWithProjection(session, "image_processor")
        self.text_encoders = (self._text_encoder,)

    @classmethod
    def input_classes(cls) -> Sequence[type[Any]]:
        """See `StagedPipeline`."""
        return KandinskyPriorInputs, KandinskyPriorImageInputs

    def inputs_class(self, given: Sequence[str]) -> type[Any]:
        """See `StagedPipeline`: with an image its embedding is changed."""
        edits = self.session.bundle.pipeline_class == "KandinskyV22PriorEmb2EmbPipeline"
        return KandinskyPriorImageInputs if edits or "image" in given else KandinskyPriorInputs

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`."""
        edits = self.session.bundle.pipeline_class == "KandinskyV22PriorEmb2EmbPipeline"
        return ("image", "strength") if edits else ()

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the images that the image encoder takes; the result has none."""
        shape = next(spec.shape for spec in self.session.inputs(self._image_encoder.component))
        height, width = (side if isinstance(side, int) else 224 for side in shape[2:])
        return height, width

    def size(self, inputs: KandinskyPriorInputs) -> tuple[int, int]:  # noqa: ARG002
        """See `StagedPipeline`: an embedding has none."""
        return self.default_size

    def images(self, inputs: KandinskyPriorInputs) -> int:
        """See `StagedPipeline`: rows, those of the negative prompts included."""
        return len(inputs.texts()[0]) * inputs.num_images_per_prompt

    def truncated(self, inputs: KandinskyPriorInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        prompts = self._text_encoder.tokenize(as_list(inputs.prompt or "", inputs.count), weighting=False, long=False)
        return tuple(prompt.cut for prompt in prompts)

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, call.scheduler
        if not isinstance(scheduler, UnCLIPScheduler):
            raise InputError(
                f"scheduler: got {type(scheduler).__name__}, expected UnCLIPScheduler: priors run with no other; leave "
                f"it out"
            )
        scheduler.set_timesteps(inputs.num_inference_steps)
        timesteps = scheduler.model_timesteps
        if isinstance(inputs, KandinskyPriorImageInputs):
            timesteps = timesteps[len(timesteps) - int(len(timesteps) * inputs.strength) :]
            if not len(timesteps):
                raise InputError(f"strength: got {inputs.strength}, which leaves no step; expected more, or more steps")
        guided = inputs.guidance_scale > 1

        def run(_: FloatArray | None) -> Any:
            feeds = self._encode(inputs, guided=guided)

            def predict(sample: FloatArray, timestep: float, _index: int) -> FloatArray:
                if not guided:
                    return self.prior(sample, timestep, feeds)
                without, text = np.split(self.prior(np.concatenate([sample] * 2), timestep, feeds), 2)
                guided_output: FloatArray = without + inputs.guidance_scale * (text - without)
                return guided_output

            latents = self._start(call, timesteps[0])
            return call.denoise(predict, latents, timesteps=timesteps, scale_input=False)

        return [Stage(name="prior", total=len(timesteps), run=run)]

    def _start(self, call: StagedCall, timestep: Any) -> FloatArray:
        """Return noise, or the embedding of the call's image with the noise of the first timestep."""
        inputs, shape = call.inputs, self.prior.latent_shape(call.images)
        if not isinstance(inputs, KandinskyPriorImageInputs):
            return call.start_noise(shape, inputs.latents) * np.float32(call.scheduler.init_noise_sigma)
        rows = np.repeat(self._image_rows(inputs.image), inputs.num_images_per_prompt, axis=0)
        return add_noise(call.scheduler, fill_batch(rows, call.images), call.randn(shape), timestep)

    def _image_rows(self, image: Any) -> FloatArray:
        given: Any = to_array(image) if is_tensor(image) else image
        if isinstance(given, np.ndarray) and given.ndim == 2:
            if given.shape[1] != self.prior.width:
                raise InputError(f"image: got embeddings of {given.shape[1]} numbers, expected {self.prior.width}")
            return given.astype(np.float32)
        return self.encode_images(list(given) if isinstance(given, Sequence) else [given])

    def encode_images(self, images: "Sequence[Image]") -> FloatArray:
        """Return CLIP's embeddings of images, float32 (n, D).

        Raises:
            InputError: One is no PIL image.
        """
        for image in images:
            if not hasattr(image, "getbands"):
                raise InputError(f"image: got {type(image).__name__}, expected a PIL image, or embeddings (n, D)")
        return self._image_encoder(self._image_encoder.prepare(images))

    def _encode(self, inputs: KandinskyPriorInputs, *, guided: bool) -> Feeds:
        """Return the inputs of the prior besides the sample, the unconditional rows first where there are any."""
        texts, negatives = inputs.texts()
        prompts = self._text_encoder.tokenize([*(negatives if guided else []), *texts], weighting=False, long=False)
        outputs = self._text_encoder.encode(prompts, 1).outputs
        feeds = {
            "proj_embedding": outputs["text_embeds"],
            "encoder_hidden_states": outputs["last_hidden_state"],
            "attention_mask": attention_mask(self._text_encoder, prompts),
        }
        return {name: np.repeat(rows, inputs.num_images_per_prompt, axis=0) for name, rows in feeds.items()}

    def zero_embeds(self, rows: int) -> FloatArray:
        """Return the embedding of an image of zeros, once for each row. diffusers: `get_zero_embed`."""
        height, width = self.default_size
        return np.repeat(self._image_encoder(np.zeros((1, 3, height, width), np.float32)), rows, axis=0)

    def check_call(self, arguments: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """See `PipelineBase`: the rows of negative prompts make no images."""
        rows, values = super().check_call(arguments)
        return rows // (2 if "negative_prompt" in values else 1), values

    def measured_images(self, result: ImageEmbeddings) -> FloatArray:
        """See `PipelineBase`: the embeddings before mean and deviation are put on; grey is 0."""
        centred = self.prior.pre_process_embeddings(result.image_embeds)
        return draw_embeddings(centred, float(self.scheduler.config.get("clip_sample_range", 1.0)))

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        shape = "images", self.prior.width
        return {"image_embeds": shape, "negative_image_embeds": shape}

    def handed_over(self, result: ImageEmbeddings) -> dict[str, Any]:
        """See `PipelineBase`."""
        return {"image_embeds": result.image_embeds, "negative_image_embeds": result.negative_image_embeds}

    def result(self, call: StagedCall, latents: FloatArray, seed: Any, truncated: tuple[str, ...]) -> ImageEmbeddings:
        """See `StagedPipeline`."""
        embeds = self.prior.post_process_latents(latents)
        if call.inputs.negative_prompt is None:
            pair = embeds, self.zero_embeds(len(embeds))
        else:
            first, second = np.split(embeds, 2)
            pair = first, second
        return ImageEmbeddings(image_embeds=pair[0], negative_image_embeds=pair[1], seed=seed, truncated=truncated)

    def interpolate(
        self,
        images_and_prompts: "Sequence[str | Image]",
        weights: Sequence[float],
        *,
        negative_prompt: str = "",
        negative_prior_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: GeneratorInput | None = None,
        **arguments: Any,
    ) -> ImageEmbeddings:
        """Mix images and prompts: the weighted sum of their embeddings. diffusers: `interpolate`.

        diffusers' `KandinskyPriorPipeline` of version 2.1 adds up the embeddings of all images of a prompt, too. Here
        every image has its own sum, as in version 2.2.

        Args:
            images_and_prompts: At least one prompt or PIL image.
            weights: A number for each of them.
            negative_prompt: Makes the negative embedding of the result; "" takes that of an image of zeros.
            negative_prior_prompt: Negative prompt of the prior itself.
            num_images_per_prompt: Rows of the result.
            seed: As in a call; all prompts draw from one generator, one after another.
            generator: As in a call.
            arguments: Further arguments of each call: `num_inference_steps`, `guidance_scale`, `latents`.

        Raises:
            InputError: Another number of weights, or an argument that does not fit.
        """
        check_numbers("weights", weights)
        if len(images_and_prompts) != len(weights) or not len(weights):
            raise InputError(
                f"weights: got {len(weights)} for {len(images_and_prompts)} images and prompts, expected one for each, "
                f"and at least one"
            )
        given = arguments.get("latents") is not None
        rows = num_images_per_prompt * (1 if negative_prior_prompt is None else 2)
        used, shared = make_generators(seed, generator, rows, has_latents=given)
        call: Callable[..., ImageEmbeddings] = partial(
            self,
            negative_prompt=negative_prior_prompt,
            num_images_per_prompt=num_images_per_prompt,
            generator=shared,
            **arguments,
        )
        total = np.zeros((num_images_per_prompt, self.prior.width), np.float32)
        truncated: tuple[str, ...] = ()
        for condition, weight in zip(images_and_prompts, weights, strict=True):
            if isinstance(condition, str):
                result = call(condition)
                found, truncated = result.image_embeds, (*truncated, *result.truncated)
            else:
                found = self.encode_images([condition])
            total = total + found * np.float32(weight)
        last = call(negative_prompt)
        negative = last.negative_image_embeds if negative_prompt == "" else last.image_embeds
        return ImageEmbeddings(image_embeds=total, negative_image_embeds=negative, seed=used, truncated=truncated)

"""Shap-E: the latents of a 3D object, from a prompt or from an image."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.clip_vision import CLIPVisionModel
from diffoundry.runtime.models.prior_transformer import PriorTransformer
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.denoising import Predict, Step
from diffoundry.runtime.pipelines.image_prompts import encode_image_prompts
from diffoundry.runtime.pipelines.output import PipelineOutput
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage, StagedRun
from diffoundry.runtime.pipelines.systems.shap_e_inputs import ShapEImageInputs, ShapEInputs, refuse_renderer

__all__ = ["ShapE", "ShapEImage"]


class _ObjectPrior(StagedPipeline):
    """The loop that both pipelines share, over a prior that denoises many tokens.

    Jun and Nichol 2023, https://arxiv.org/abs/2305.02463, section 4.2.

    Latents are float32 (B, tokens, D). diffusers' renderer makes the weights of a network of them, which says how the
    object looks.

    Attributes:
        prior: Predicts the latents.
    """

    makes_images = False

    _scales_own_latents: ClassVar[bool] = True

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.prior = PriorTransformer(session)

    def start(self, prompt: Any = None, **arguments: Any) -> StagedRun:
        """Prepare a run; the output type is "latent", also where a call names none.

        Raises:
            InputError: Another output type, or as `StagedPipeline.start`.
        """
        output_type = arguments.setdefault("output_type", "latent")
        if output_type != "latent":
            raise refuse_renderer("output_type", output_type, "'latent'")
        return StagedPipeline.start(self, prompt, **arguments)

    def encode(self, inputs: Any) -> FloatArray:
        """Return the conditioning of the prior, a row for each prompt or image."""
        raise NotImplementedError

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        scheduler, shape = call.scheduler, self.prior.latent_shape(call.images)
        scheduler.check_loop(channels=self.prior.width, output_channels=self.prior.width)
        scheduler.set_timesteps(call.inputs.num_inference_steps)
        own = call.inputs.latents
        if own is not None:
            flat = own.shape == (shape[0], shape[1] * shape[2])
            own = call.start_noise(shape, own.reshape(shape) if flat else own)  # refuses other shapes

        def run(_: FloatArray | None) -> Iterator[Step]:
            predict, latents = self._predict(call), call.start_noise(shape, own)
            if own is None or self._scales_own_latents:
                latents = latents * np.float32(scheduler.init_noise_sigma)
            return call.denoise(predict, latents)

        return [Stage(name="prior", total=len(scheduler.model_timesteps), run=run)]

    def _predict(self, call: StagedCall) -> Predict:
        """Return the prior with guidance; of its output only the means are used."""
        inputs, width = call.inputs, self.prior.width
        guided = inputs.guidance_scale > 1
        rows = np.repeat(self.encode(inputs), inputs.num_images_per_prompt, axis=0)
        feeds = {"proj_embedding": np.concatenate([np.zeros_like(rows), rows]) if guided else rows}

        def predict(sample: FloatArray, timestep: float, _index: int) -> FloatArray:
            if not guided:
                return self.prior(sample, timestep, feeds)[..., :width]
            means = self.prior(np.concatenate([sample] * 2), timestep, feeds)[..., :width]
            without, conditional = np.split(means, 2)
            combined: FloatArray = without + np.float32(inputs.guidance_scale) * (conditional - without)
            return combined

        return predict

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """Return the latents.

        Raises:
            InputError: Another output type than "latent".
        """
        if output_type != "latent":
            raise refuse_renderer("output_type", output_type, "'latent'")
        return latents

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`."""
        return {**StagedPipeline.setting_arguments(self, steps, guidance_scale), "output_type": "latent"}

    def measured_images(self, result: PipelineOutput[Any]) -> FloatArray:
        """See `PipelineBase`: one grey pixel for each number; grey is 0."""
        limit = 2 * float(self.scheduler.config.get("clip_sample_range", 1.0))
        grey = np.clip(np.asarray(result.images) / limit + 0.5, 0, 1).astype(np.float32)
        return np.repeat(grey[..., np.newaxis], 3, axis=-1)

    def result_arrays(self, result: PipelineOutput[Any]) -> dict[str, FloatArray]:
        """See `PipelineBase`."""
        return {"latents": result.images}


class ShapE(_ObjectPrior):
    """diffusers: `ShapEPipeline`."""

    Inputs: ClassVar[type[Any]] = ShapEInputs
    label: ClassVar[str] = "latents of an object in a text"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        _ObjectPrior.open_networks(self, session)
        self._text_encoder = CLIPTextModel(session)
        self.text_encoders = (self._text_encoder,)

    @property
    def default_size(self) -> tuple[int, int]:
        """Tokens of an object, and numbers of each; there are no pixels."""
        return self.prior.tokens, self.prior.width

    def truncated(self, inputs: ShapEInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        return tuple(one.cut for one in self._text_encoder.tokenize(inputs.texts, weighting=False, long=False))

    def encode(self, inputs: ShapEInputs) -> FloatArray:
        """Return the projected vectors of the prompts (prompts, P), of length sqrt(P)."""
        prompts = self._text_encoder.tokenize(inputs.texts, weighting=False, long=False)
        rows = self._text_encoder.encode(prompts, 1).outputs["text_embeds"]
        length = np.linalg.norm(rows, axis=-1, keepdims=True)
        scaled: FloatArray = np.float32(math.sqrt(rows.shape[1])) * (rows / length)
        return scaled


class ShapEImage(_ObjectPrior):
    """diffusers: `ShapEImg2ImgPipeline`."""

    Inputs: ClassVar[type[Any]] = ShapEImageInputs
    label: ClassVar[str] = "latents of an object in an image"

    _scales_own_latents: ClassVar[bool] = False

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        _ObjectPrior.open_networks(self, session)
        self._image_encoder = CLIPVisionModel(session, "image_processor")

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the images that the image encoder takes."""
        shape = next(spec.shape for spec in self.session.inputs(self._image_encoder.component))
        height, width = (side if isinstance(side, int) else 224 for side in shape[2:])
        return height, width

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`."""
        return ("image",)

    def encode(self, inputs: ShapEImageInputs) -> FloatArray:
        """Return the states of the patches of each image (images, patches, D)."""
        return encode_image_prompts(self._image_encoder, inputs.image)[:, 1:]

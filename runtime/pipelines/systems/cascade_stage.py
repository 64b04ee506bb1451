"""The base of both stages of Stable Cascade and of Würstchen: sizes, the loop, and its guidance."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import number
from diffoundry.runtime.images.postprocess import to_pil
from diffoundry.runtime.models.clip_text import CLIPTextModel, TokenizedPrompt
from diffoundry.runtime.models.denoiser import DenoiserNetwork
from diffoundry.runtime.models.paella_vq_model import PaellaVQModel
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.denoising import Predict
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.cascade_inputs import read_features
from diffoundry.runtime.pipelines.systems.kandinsky_prior import draw_embeddings
from diffoundry.runtime.schedulers.algorithms.ddpm_wuerstchen import DDPMWuerstchenScheduler

__all__ = ["CascadeDecoder", "CascadePrior", "CascadeStage", "draw_features"]

_TRAINED_SIDE = 1024

_WHITE = 3.0
"""A latent that a measurement draws white: three deviations of the noise that a run starts from."""


def draw_features(features: FloatArray) -> FloatArray:
    """Return small latents (B, C, h, w) as images of one row of grey pixels, float32 (B, 1, C * h * w, 3) in 0..1."""
    return draw_embeddings(features.reshape(len(features), -1), _WHITE)


class CascadeStage(StagedPipeline):
    """A stage. It was trained for images of one size, which no config names.

    Attributes:
        text_encoder: Reads the prompts.
    """

    only_scheduler: ClassVar[str | None] = DDPMWuerstchenScheduler.__name__

    text_encoder: CLIPTextModel

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _TRAINED_SIDE, _TRAINED_SIDE

    def side(self, pixels: int) -> int:
        """Return the side of the prior's latents for the side of an image; diffusers: `resolution_multiple`."""
        return math.ceil(pixels / self.registered_number("resolution_multiple", 42.67))

    def latent_side(self, side: int) -> int:
        """Return the side of the decoder's latents for the side of the prior's; diffusers: `latent_dim_scale`."""
        return int(side * self.registered_number("latent_dim_scale", 10.67))

    def registered_number(self, name: str, default: float, minimum: float = 1e-3) -> float:
        """Return a number that diffusers' pipeline class registers in model_index.json.

        Args:
            name: Its name.
            default: Its value where the file has none.
            minimum: The least that is taken.
        """
        index = self.session.bundle.model_index
        return number(index, name, default, subject="model_index.json", minimum=minimum, maximum=1e6)

    def truncated(self, inputs: Any) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        return tuple(prompt.cut for prompt in self.tokenize(inputs.texts)) if inputs.texts else ()

    def tokenize(self, texts: Sequence[str]) -> tuple[TokenizedPrompt, ...]:
        """Tokenize prompts, without weights, each in one chunk."""
        return self.text_encoder.tokenize(texts, weighting=False, long=False)

    def make_stage(
        self, call: StagedCall, name: str, network: DenoiserNetwork, sides: Sequence[int], feeds: Callable[[], Feeds]
    ) -> Stage:
        """Return the only stage of a call.

        Args:
            call: The call.
            name: Of the stage.
            network: Predicts the noise.
            sides: Height and width of the latents.
            feeds: Computes the inputs of the network besides the sample, the unconditional rows last where there are
                any.
        """
        inputs = call.inputs
        scheduler = self.require_scheduler(call.scheduler, DDPMWuerstchenScheduler)
        own = getattr(inputs, "timesteps", None)
        scheduler.set_timesteps(inputs.num_inference_steps if own is None else None, timesteps=own)

        def run(_: FloatArray | None) -> Any:
            predict = _predict(network, feeds(), inputs.guidance_scale)
            noise = call.start_noise((call.images, network.in_channels, *sides), inputs.latents)
            return call.denoise(predict, noise * np.float32(scheduler.init_noise_sigma), scale_input=False)

        return Stage(name=name, total=len(scheduler.model_timesteps), run=run)


def _predict(network: DenoiserNetwork, feeds: Feeds, scale: float) -> Predict:
    def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
        if scale <= 1:
            return network(latents, timestep, feeds)
        return _guide(network(np.concatenate([latents] * 2), timestep, feeds), scale)

    return predict


def _guide(output: FloatArray, scale: float) -> FloatArray:
    """Return the guided half of an output whose conditional half comes first; rounded as `torch.lerp` rounds.

    Args:
        output: float32 (2 B, ...).
        scale: Above 1.
    """
    text, without = np.split(output, 2)
    guided: FloatArray = text - (text - without) * np.float32(1 - scale)
    return guided


class CascadePrior(CascadeStage):
    """A prior: a prompt to small latents for the decoder.

    Attributes:
        prior: Predicts the noise of small latents.
    """

    label: ClassVar[str] = "embeddings of images"
    makes_images = False

    prior: DenoiserNetwork

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        sides = [self.side(pixels) for pixels in call.size]
        return [self.make_stage(call, "prior", self.prior, sides, lambda: self.conditions(call.inputs))]

    def conditions(self, inputs: Any) -> Feeds:
        """Return the inputs of the network besides the sample; see `make_stage`."""
        raise NotImplementedError

    def check_call(self, arguments: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """See `PipelineBase`: also the sides of the result."""
        count, values = super().check_call(arguments)
        sides = {f"embedding_{name}": self.side(values[name]) for name in ("height", "width")}
        return count, {**values, **sides}

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        return {"image_embeddings": ("images", self.prior.out_channels, "embedding_height", "embedding_width")}

    def handed_over(self, result: Any) -> dict[str, Any]:
        """See `PipelineBase`."""
        return {name: getattr(result, name) for name in self.handed_shapes()}


class CascadeDecoder(CascadeStage):
    """A decoder: the prior's small latents and a prompt to images.

    Attributes:
        denoiser: Predicts the noise of latents.
        vqgan: Latents to images.
        effnet_channels: Channels of the prior's latents.
        latent_multiple: Number of which both sides of its own latents are multiples.
    """

    label: ClassVar[str] = "images of embeddings"

    denoiser: DenoiserNetwork
    vqgan: PaellaVQModel
    effnet_channels: int
    latent_multiple: int

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent."""
        return self.vqgan.factor

    def images(self, inputs: Any) -> int:
        """See `StagedPipeline`."""
        return len(read_features(inputs.image_embeddings)) * int(inputs.num_images_per_prompt)

    def size(self, inputs: Any) -> tuple[int, int]:
        """See `StagedPipeline`: it follows from that of the embeddings.

        Raises:
            InputError: The latents cannot be cut into patches.
        """
        features = read_features(inputs.image_embeddings)
        height, width = (self.latent_side(side) for side in features.shape[2:])
        multiple = self.latent_multiple
        if height % multiple or width % multiple or not height * width:
            raise InputError(
                f"image_embeddings: got {features.shape[3]} x {features.shape[2]}, of which {width} x {height} latents "
                f"would be made, expected multiples of {multiple}; choose another height or width of the prior"
            )
        return height * self.scale_factor, width * self.scale_factor

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`.

        Raises:
            InputError: The embeddings are those of another prior.
        """
        features = read_features(call.inputs.image_embeddings)
        if features.shape[1] != self.effnet_channels:
            raise InputError(
                f"image_embeddings: got {features.shape[1]} channels, expected {self.effnet_channels}; use the "
                f"prior of this decoder"
            )
        height, width = (side // self.scale_factor for side in call.size)
        rows = np.repeat(features, call.inputs.num_images_per_prompt, axis=0)

        def feeds() -> Feeds:
            return self.conditions(call, rows, (height, width))

        return [self.make_stage(call, "decoder", self.denoiser, (height, width), feeds)]

    def conditions(self, call: StagedCall, features: FloatArray, sides: tuple[int, int]) -> Feeds:
        """Return the inputs of the network besides the sample; see `make_stage`.

        Args:
            call: The call.
            features: The prior's latents, a row for each image.
            sides: Height and width of the decoder's latents.
        """
        raise NotImplementedError

    def taken_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        return {"image_embeddings": ("images", self.effnet_channels, "embedding_height", "embedding_width")}

    def example_arrays(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """See `PipelineBase`."""
        return {"image_embeddings": (1, self.effnet_channels, self.side(height), self.side(width))}

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`."""
        if output_type == "latent":
            return latents
        pixels = np.ascontiguousarray(self.vqgan.decode(latents).transpose(0, 2, 3, 1))
        return to_pil(pixels) if output_type == "pil" else pixels

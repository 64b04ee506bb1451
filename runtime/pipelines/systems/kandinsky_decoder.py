"""The decoder of Kandinsky 2.2: image embeddings to images, from noise, from an image, or within a mask."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.images.mask import preprocess_mask
from diffoundry.runtime.images.pixels import read_pixels
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.models.vq_model import VQModel
from diffoundry.runtime.pipelines.denoising import AfterStep, Predict
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.kandinsky_inputs import (
    DecoderImageInputs,
    DecoderInpaintInputs,
    DecoderInputs,
    ImageStart,
    MaskedStart,
    read_embeddings,
)
from diffoundry.runtime.pipelines.tasks.schedule import add_noise
from diffoundry.runtime.pipelines.tasks.source_images import fill_batch, image_size, read_image
from diffoundry.runtime.schedulers import Scheduler
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["KandinskyDecoder", "combine_learned", "grow_hole", "learns_variance"]


class KandinskyDecoder(StagedPipeline):
    """diffusers: `KandinskyV22Pipeline`, and those with Img2Img, Inpaint, Controlnet and ControlnetImg2Img.

    Attributes:
        kinds: Dataclasses of the arguments of text to image, of image to image, and of inpainting.
        blends: True if inpainting puts the image back after every step where it is kept.
        movq: Images to latents and back.
        unet: The denoiser.
    """

    Inputs: ClassVar[type[Any]] = DecoderInputs
    label: ClassVar[str] = "images of embeddings"
    kinds: ClassVar[tuple[type[Any], type[Any], type[Any]]] = DecoderInputs, DecoderImageInputs, DecoderInpaintInputs
    blends: ClassVar[bool] = True

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = UNet2DConditionModel(session)
        vae = open_vae(session)
        if not isinstance(vae, VQModel):
            raise BundleError(f"bundle {session.bundle.root}: got the VAE {type(vae).__name__}, expected a VQModel")
        self.vae = self.movq = vae
        config = session.bundle.config(self.unet.component)
        self._takes_hint = config.get("addition_embed_type") == "image_hint"
        self._inpaints = self.unet.in_channels == 2 * self.movq.latent_channels + 1
        self.follows_scheduler = not (self._inpaints and self.blends)

    @property
    def _width(self) -> int:
        """Numbers of an embedding; 0 where the bundle does not say."""
        shapes = {spec.name: spec.shape for spec in self.session.inputs(self.unet.component)}
        width = shapes.get("image_embeds", (0,))[-1]
        return width if isinstance(width, int) else 0

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent; diffusers: `movq_scale_factor`."""
        return self.movq.scale_factor

    @classmethod
    def input_classes(cls) -> Sequence[type[Any]]:
        """See `StagedPipeline`."""
        return cls.kinds

    def inputs_class(self, given: Sequence[str]) -> type[Any]:
        """See `StagedPipeline`: by the channels of the denoiser, the class of the checkpoint, and the image."""
        plain, from_image, masked = self.kinds
        if self._inpaints:
            return masked
        starts = "Img2Img" in self.session.bundle.pipeline_class
        return from_image if starts or "image" in given else plain

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`."""
        if self._inpaints:
            return "image", "mask_image"
        return ("image", "strength") if "Img2Img" in self.session.bundle.pipeline_class else ()

    @property
    def takes_size(self) -> bool:
        """See `PipelineBase`: also beside an image."""
        return True

    @property
    def used_components(self) -> tuple[str, ...]:
        """See `StagedPipeline`: only an image to start from needs the encoder."""
        unused = () if "image" in self.example_inputs else ("vae_encoder",)
        return tuple(name for name in self.session.bundle.components if name not in unused)

    def taken_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        shape = "images", self._width
        return {"image_embeds": shape, "negative_image_embeds": shape}

    def example_arrays(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """See `PipelineBase`."""
        hint = {"hint": (1, 3, height, width)} if self._takes_hint else {}
        return {"image_embeds": (1, self._width), "negative_image_embeds": (1, self._width), **hint}

    @property
    def default_size(self) -> tuple[int, int]:
        """See `StagedPipeline`; rounded up to sizes that the decoder takes."""
        multiple, size = self.size_multiple(), self.unet.sample_size or (64, 64)
        height, width = (-(-side * self.scale_factor // multiple) * multiple for side in size)
        return height, width

    def size_multiple(self) -> int:
        """See `StagedPipeline`. diffusers rounds other sizes up: `downscale_height_and_width`."""
        return self.scale_factor**2

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, call.scheduler
        self._check(call)
        scheduler.check_loop()
        scheduler.set_timesteps(inputs.num_inference_steps)
        timesteps = scheduler.model_timesteps
        if isinstance(inputs, ImageStart):
            steps = call.inputs.num_inference_steps
            timesteps = timesteps[steps - min(int(steps * inputs.strength), steps) :]
            if not len(timesteps):
                raise InputError(f"strength: got {inputs.strength}, which leaves no step; expected more, or more steps")

        def run(_: FloatArray | None) -> Any:
            channels, blend = None, None
            if isinstance(inputs, ImageStart):
                latents = self._start_from_image(call, timesteps[0])
            elif isinstance(inputs, MaskedStart):
                kept, image = self._masked(call)
                latents = self._noise(call)
                channels = np.concatenate([image * kept, kept], axis=1)
                if self.blends:
                    blend = self._blend(scheduler, kept[:1], image[:1], latents)
            else:
                latents = self._noise(call)
            predict = self._predict(call, channels)
            return call.denoise(predict, latents, timesteps=timesteps, after_step=blend, scale_input=False)

        return [Stage(name="decoder", total=len(timesteps), run=run)]

    def _check(self, call: StagedCall) -> None:
        """Refuse arguments that do not fit the checkpoint or the size.

        Raises:
            InputError: As said.
        """
        inputs, (height, width) = call.inputs, call.size
        embeds = read_embeddings("image_embeds", inputs.image_embeds)
        if self._width and embeds.shape[1] != self._width:
            raise InputError(
                f"image_embeds: got {embeds.shape[1]} numbers for an image, expected {self._width}; use the prior of "
                f"this decoder"
            )
        if self._takes_hint == (getattr(inputs, "hint", None) is None):
            if self._takes_hint:
                raise InputError("hint: got none, expected one, such as a depth map, which this checkpoint follows")
            raise InputError("hint: got one, expected none: this checkpoint follows no hint; leave it out")
        for name in ("image", "mask_image", "hint"):
            value = getattr(inputs, name, None)
            if value is not None and (found := _size_of(value, name)) != (height, width):
                raise InputError(
                    f"{name}: got {found[1]} x {found[0]} pixels, expected {width} x {height}, the size of the call"
                )

    def _noise(self, call: StagedCall) -> FloatArray:
        height, width = (side // self.scale_factor for side in call.size)
        shape = call.images, self.movq.latent_channels, height, width
        return call.start_noise(shape, call.inputs.latents) * np.float32(call.scheduler.init_noise_sigma)

    def _start_from_image(self, call: StagedCall, timestep: Any) -> FloatArray:
        """Return the noisy latents of the image, a row for each image."""
        latents = np.repeat(self.movq.mode(read_image(call.inputs.image)), call.inputs.num_images_per_prompt, axis=0)
        rows = fill_batch(latents, call.images)
        return self._add_noise(call, rows, timestep)

    def _add_noise(self, call: StagedCall, latents: FloatArray, timestep: Any) -> FloatArray:
        """Return the latents of an image with the noise of the first timestep."""
        return add_noise(call.scheduler, latents, call.randn(latents.shape), timestep)

    def _masked(self, call: StagedCall) -> tuple[FloatArray, FloatArray]:
        """Return ones where the image is kept, and its latents, a row for each image."""
        latents = self.movq.mode(read_image(call.inputs.image))
        hole = np.asarray(preprocess_mask(call.inputs.mask_image, *call.size), np.float32)
        kept = grow_hole(resample(1 - hole, latents.shape[2:], "nearest"))
        copies = call.inputs.num_images_per_prompt
        rows = [np.repeat(array, copies, axis=0) for array in (kept, latents)]
        return fill_batch(rows[0], call.images), fill_batch(rows[1], call.images)

    def _blend(self, scheduler: Scheduler[Any], kept: FloatArray, image: FloatArray, noise: FloatArray) -> AfterStep:
        """Return what puts the image back where it is kept. diffusers takes the first image for all."""
        images = np.broadcast_to(image, noise.shape)

        def blend(following: Any, latents: FloatArray) -> FloatArray:
            proper = images if following is None else add_noise(scheduler, images, noise, following)
            blended: FloatArray = kept * proper + (1 - kept) * latents
            return blended

        return blend

    def _predict(self, call: StagedCall, channels: FloatArray | None) -> Predict:
        inputs, learned = call.inputs, learns_variance(call.scheduler)
        copies = 2 if inputs.guidance_scale > 1 else 1
        feeds = self._feeds(inputs, copies, call.images)

        def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
            sample = latents if channels is None else np.concatenate([latents, channels], axis=1)
            output = self.unet(np.concatenate([sample] * copies), timestep, feeds)
            return combine_learned(output, latents.shape[1], inputs.guidance_scale, guided=copies > 1, learned=learned)

        return predict

    def _feeds(self, inputs: Any, copies: int, images: int) -> Feeds:
        """Return the inputs of the denoiser besides the sample, the unconditional rows first where there are any."""
        embeds = [read_embeddings("image_embeds", inputs.image_embeds)]
        if copies > 1:
            embeds.insert(0, read_embeddings("negative_image_embeds", inputs.negative_image_embeds))
        rows = [np.repeat(part, inputs.num_images_per_prompt, axis=0) for part in embeds]
        feeds = {"image_embeds": np.concatenate([fill_batch(part, images, "image_embeds") for part in rows])}
        if isinstance(inputs, DecoderInputs) and inputs.hint is not None:
            feeds["hint"] = np.concatenate([fill_batch(_read_hint(inputs.hint), images, "hint")] * copies)
        return feeds

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: latents are decoded as they are, not as their nearest codes."""
        if output_type == "latent":
            return latents
        return postprocess(self.movq.decode(latents, quantize=False), output_type)


def combine_learned(output: FloatArray, channels: int, scale: float, *, guided: bool, learned: bool) -> FloatArray:
    """Guide the mean of a denoiser's output; the variance is that of the conditional half.

    Args:
        output: float32 (B, 2 C, ...), or (2 B, 2 C, ...) with the unconditional half first.
        channels: C.
        scale: The guidance scale.
        guided: True if there are two halves.
        learned: True if the scheduler takes the variance; otherwise it is dropped.
    """
    mean, variance = output[:, :channels], output[:, channels:]
    if guided:
        without, text = np.split(mean, 2)
        mean = without + scale * (text - without)
        variance = np.split(variance, 2)[1]
    return np.concatenate([mean, variance], axis=1) if learned else np.ascontiguousarray(mean)


def learns_variance(scheduler: Scheduler[Any]) -> bool:
    """Return whether a scheduler takes the variance that a denoiser predicts."""
    return scheduler.config.get("variance_type") in ("learned", "learned_range")


def grow_hole(kept: FloatArray) -> FloatArray:
    """Return a mask, (B, 1, h, w) of zeros and ones, whose zeros have grown to six of their eight neighbours.

    diffusers: `prepare_mask` of the Kandinsky inpainting pipelines, which leaves two diagonal neighbours out.
    """
    height, width = kept.shape[2:]
    padded = np.pad(kept, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1.0)
    grown = kept.copy()
    for down, across in ((1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1)):
        grown = np.minimum(grown, padded[:, :, 1 + down : 1 + down + height, 1 + across : 1 + across + width])
    return grown


def _size_of(value: Any, name: str) -> tuple[int, int]:
    shape = getattr(value, "shape", None)
    if name == "hint" and shape is not None and len(shape) == 4:
        return int(shape[2]), int(shape[3])
    return image_size(value, name)


def _read_hint(hint: Any) -> FloatArray:
    """Return hints, float32 (n, 3, H, W); arrays of four axes are taken as they are."""
    if not isinstance(hint, np.ndarray):
        return read_pixels(hint, "hint")
    if hint.dtype.kind != "f" or not np.isfinite(hint).all():
        got = f"an array of {hint.dtype}" if hint.dtype.kind != "f" else "NaN or infinity"
        raise InputError(f"hint: got {got}, expected finite floats; pass a PIL image or divide by 255")
    return hint.astype(np.float32)

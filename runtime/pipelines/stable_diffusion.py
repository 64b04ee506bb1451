"""Text to image with Stable Diffusion 1.x and 2.x."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.adapters.loaded import Adapters
from diffoundry.runtime.adapters.pipeline import Adaptable
from diffoundry.runtime.components import Components
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.guidance import guide, rescale_guidance
from diffoundry.runtime.image import postprocess
from diffoundry.runtime.pipelines.denoising import denoise, set_timesteps
from diffoundry.runtime.pipelines.request import Request, check_request, make_generator_for
from diffoundry.runtime.pipelines.run import PipelineOutput, Run
from diffoundry.runtime.random import Generator, randn_tensor
from diffoundry.runtime.schedulers import Scheduler, scheduler_class, scheduler_from_config
from diffoundry.runtime.tokenizers.clip import TOKENIZER_FILES, ClipTokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["StableDiffusionPipeline"]

FloatArray = npt.NDArray[np.float32]

_SCALING_FACTOR = 0.18215
"""What diffusers assumes when the VAE's config does not say, as those of the first checkpoints."""


class StableDiffusionPipeline(Adaptable):
    """Drives text_encoder, unet and vae_decoder of a bundle; diffusers: `StableDiffusionPipeline`.

    Several threads may share one object: every call has its own scheduler and generator.
    """

    def __init__(self, components: Components) -> None:
        """Read the configs; engines are opened when first needed.

        Raises:
            BundleError: The bundle lacks a component, a config or the tokenizer.
        """
        bundle = components.bundle
        for name in ("text_encoder", "unet", "vae_decoder"):
            bundle.engines(name)
        self.components = components
        self.adapters = Adapters(components)
        self.scheduler_config: Mapping[str, Any] = bundle.read_json("scheduler/scheduler_config.json")
        self.tokenizer = _tokenizer(components)
        self._unet = bundle.config("unet")
        self._vae = bundle.config("vae_decoder")

    @property
    def vae_scale_factor(self) -> int:
        """Pixels to a latent."""
        return 1 << (len(self._vae["block_out_channels"]) - 1)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels that the checkpoint was trained for."""
        size = self._unet["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    def __call__(self, prompt: str | Sequence[str], **arguments: Any) -> PipelineOutput:
        """Paint.

        Args:
            prompt: One prompt or several.
            arguments: Any other field of `Request`, under diffusers' names.

        Raises:
            InputError: An argument does not fit; the message names it.
            EngineError: An engine cannot be opened, or failed.
        """
        return self.start(prompt, **arguments).finish()

    def start(self, prompt: str | Sequence[str], **arguments: Any) -> Run:
        """The same picture step by step: iterate over the result for steps and previews, then `finish` it.

        Raises:
            InputError: As `__call__`.
        """
        unknown = sorted(set(arguments) - set(Request.__dataclass_fields__))
        if unknown:
            raise InputError(
                f"{unknown[0]}: no such argument, expected one of {', '.join(Request.__dataclass_fields__)}"
            )
        request = Request(prompt=prompt, **arguments)
        height, width = self.size(request)
        manifest = self.components.bundle.manifest
        recipe = manifest.recipe if manifest else None
        dims, buckets = (recipe.dims, recipe.buckets) if recipe else ({}, ())
        check_request(request, (height, width), self.vae_scale_factor, dims, buckets)
        scheduler = self.scheduler(request.scheduler)
        set_timesteps(scheduler, request.num_inference_steps, request.timesteps, request.sigmas)
        seed, generator = make_generator_for(request)
        latents = self._start_latents(request, scheduler, generator)
        embeddings, truncated = self._encode(request)
        denoiser = partial(self._predict_guided, request, embeddings)
        return Run(
            steps=denoise(scheduler, denoiser, latents, generator, request.eta),
            total=len(scheduler.timesteps),
            latents=latents,
            decode=self.decode,
            output_type=request.output_type,
            seed=None if request.latents is not None and request.seed is None else seed,
            truncated=truncated,
        )

    def size(self, request: Request) -> tuple[int, int]:
        """Height and width in pixels of a request."""
        height, width = self.default_size
        return request.height or height, request.width or width

    def scheduler(self, name: str | None = None) -> Scheduler[Any]:
        """A fresh scheduler with the checkpoint's config: its own class, or the one called `name`."""
        own = scheduler_from_config(self.scheduler_config)
        mended = _mended_options(own.config)
        if name is None:
            return scheduler_from_config(self.scheduler_config, **mended) if mended else own
        return scheduler_class(f"{name.removesuffix('Scheduler')}Scheduler").from_config({**own.config, **mended})

    def encode_prompt(self, texts: Sequence[str]) -> tuple[FloatArray, tuple[str, ...]]:
        """Embeddings (B, 77, D) of texts, and what of each was cut off; diffusers: `encode_prompt`."""
        tokens = self.tokenizer(texts)
        return self.components.run("text_encoder", {"input_ids": tokens.input_ids})[
            "last_hidden_state"
        ], tokens.truncated

    def predict(self, latents: FloatArray, timestep: FloatArray, embeddings: FloatArray) -> FloatArray:
        """One call of the UNet: latents (B, C, h, w), timestep (1,), embeddings (B, 77, D) -> (B, C, h, w)."""
        feeds = {"sample": latents, "timestep": timestep, "encoder_hidden_states": embeddings}
        return self.components.run("unet", feeds)["out_sample"]

    def decode(self, latents: FloatArray, output_type: str = "pil") -> "list[Image] | FloatArray":
        """The pictures that latents (B, C, h, w) stand for; see `PipelineOutput.images` for the output types."""
        if output_type == "latent":
            return latents
        scaled = latents / self._vae.get("scaling_factor", _SCALING_FACTOR)
        return postprocess(self.components.run("vae_decoder", {"latent_sample": scaled})["sample"], output_type)

    def _encode(self, request: Request) -> tuple[FloatArray, tuple[str, ...]]:
        """Embeddings of all rows of a UNet call: the negative prompts first when guiding, then the prompts."""
        prompts = request.prompts
        negatives: list[str] = []
        if request.guided:
            negative = request.negative_prompt or ""
            negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        embeddings, truncated = self.encode_prompt(negatives + prompts)
        return np.repeat(embeddings, request.num_images_per_prompt, axis=0), truncated[len(negatives) :]

    def _start_latents(
        self, request: Request, scheduler: Scheduler[Any], generator: Generator | Sequence[Generator]
    ) -> FloatArray:
        """Noise in the scheduler's scale; diffusers: `prepare_latents`."""
        height, width = self.size(request)
        factor = self.vae_scale_factor
        shape = (request.pictures, self._unet["in_channels"], height // factor, width // factor)
        noise = request.latents
        if noise is None:
            noise = randn_tensor(shape, generator)
        elif noise.shape != shape:
            raise InputError(f"latents: got shape {noise.shape}, expected {shape}")
        return noise.astype(np.float32) * float(scheduler.init_noise_sigma)

    def _predict_guided(
        self, request: Request, embeddings: FloatArray, latents: FloatArray, timestep: FloatArray
    ) -> FloatArray:
        """The UNet with classifier-free guidance: one call of twice the rows."""
        if not request.guided:
            return self.predict(latents, timestep, embeddings)
        unconditional, conditional = np.split(self.predict(np.concatenate([latents, latents]), timestep, embeddings), 2)
        guided = guide(unconditional, conditional, request.guidance_scale)
        if request.guidance_rescale > 0:
            guided = rescale_guidance(guided, conditional, request.guidance_rescale)
        return guided


def _mended_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What diffusers changes in the scheduler config of a Stable Diffusion pipeline, for the sake of old checkpoints.

    diffusers: `StableDiffusionPipeline.__init__`, "steps_offset" and "clip_sample".
    """
    mended: dict[str, Any] = {}
    if config.get("steps_offset", 1) != 1:
        mended["steps_offset"] = 1
    if config.get("clip_sample", False) is True:
        mended["clip_sample"] = False
    return mended


def _tokenizer(components: Components) -> ClipTokenizer:
    """The tokenizer, from files of the bundle that were checked."""
    bundle = components.bundle
    files = {name: bundle.file(f"tokenizer/{name}") for name in TOKENIZER_FILES if bundle.has(f"tokenizer/{name}")}
    return ClipTokenizer.from_files(files, name=str(bundle.root / "tokenizer"))

"""The arguments of the Stable unCLIP pipelines, under diffusers' names."""

from dataclasses import dataclass

from diffoundry.runtime.checks.arguments import check_number, check_pixels
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.families.stable_diffusion import CLIPPromptInputs
from diffoundry.runtime.pipelines.image_prompts import ImagePromptInput, check_image_prompt, count_image_prompts

__all__ = ["NoisedInputs", "StableUnCLIPImageInputs", "StableUnCLIPInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoisedInputs(CLIPPromptInputs):
    """The arguments that both pipelines have.

    Attributes:
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; None takes the checkpoint's own size.
        num_inference_steps: Steps of the scheduler.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        num_images_per_prompt: Images for every prompt.
        eta: DDIM's eta.
        latents: Start noise, float32 (B, C, height/8, width/8), instead of drawing it.
        noise_level: Noise on the image embedding, in steps of its scheduler. More noise gives more variety.
    """

    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 20
    guidance_scale: float = 10.0
    num_images_per_prompt: int = 1
    eta: float = 0.0
    latents: FloatArray | None = None
    noise_level: int = 0

    def check(self) -> None:
        """Refuse numbers out of range, and prompts that do not fit each other.

        Raises:
            InputError: As said.
        """
        CLIPPromptInputs.check(self)
        check_number("guidance_scale", self.guidance_scale, 0)
        check_number("eta", self.eta, 0, 1.0)
        check_number("noise_level", self.noise_level, 0, whole=True)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StableUnCLIPInputs(NoisedInputs):
    """The arguments of diffusers' `StableUnCLIPPipeline`.

    Attributes:
        prior_num_inference_steps: Steps of the image embedding.
        prior_guidance_scale: Guidance of the image embedding. 1 or less runs without.
        prior_latents: Start noise of the image embedding, float32 (B, D), instead of drawing it.
    """

    prior_num_inference_steps: int = 25
    prior_guidance_scale: float = 4.0
    prior_latents: FloatArray | None = None

    def check(self) -> None:
        """See `NoisedInputs.check`. The prior reads texts alone.

        Raises:
            InputError: As said.
        """
        if self.prompt_embeds is not None:
            raise InputError("prompt_embeds: got an array, expected none: the prior reads the text itself; pass prompt")
        NoisedInputs.check(self)
        check_number("prior_num_inference_steps", self.prior_num_inference_steps, 1, whole=True)
        check_number("prior_guidance_scale", self.prior_guidance_scale, 0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StableUnCLIPImageInputs(NoisedInputs):
    """The arguments of diffusers' `StableUnCLIPImg2ImgPipeline`. Without a prompt, the image alone conditions.

    Attributes:
        image: See `ImagePromptInput`. One image is for all prompts; of several, each has its prompt.
        image_embeds: Encoded images instead of `image`, float32 (prompts, D).
    """

    image: ImagePromptInput = None
    image_embeds: FloatArray | None = None

    def check(self) -> None:
        """See `NoisedInputs.check`. There is an image, or an encoded one.

        Raises:
            InputError: As said.
        """
        if (self.image is None) == (self.image_embeds is None):
            got = "neither" if self.image is None else "both"
            raise InputError(f"image and image_embeds: got {got}, expected one of them")
        if self.image is not None:
            check_image_prompt(self.image)
        elif self.image_embeds is not None and (self.image_embeds.ndim != 2 or not len(self.image_embeds)):
            raise InputError(f"image_embeds: got shape {self.image_embeds.shape}, expected (prompts, width)")
        if self.clip_skip is not None:
            raise InputError(
                f"clip_skip: got {self.clip_skip}, expected none: diffusers ignores it in a "
                f"StableUnCLIPImg2ImgPipeline; leave it out"
            )
        NoisedInputs.check(self)
        if self.images not in (1, self.count):
            raise InputError(f"image: got {self.images} images, expected one, or {self.count}, one for each prompt")

    @property
    def images(self) -> int:
        """Number of images."""
        return count_image_prompts(self.image) if self.image_embeds is None else len(self.image_embeds)

"""The base of a family: its networks, its defaults, and the conversion of prompts to inputs of the denoiser."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.if_watermark import IFWatermarker
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.depth_estimator import DPTForDepthEstimation
from diffoundry.runtime.models.protocols import Denoiser, FloatArray, TextEncoder
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.pipelines.guidance import Condition, Guidance
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.schedulers import Scheduler

__all__ = ["EncodeOptions", "Family"]


class EncodeOptions(NamedTuple):
    """The properties of an image that its condition depends on.

    Attributes:
        height: Pixels.
        width: Pixels.
        images_per_prompt: Rows for each prompt; rows of one prompt follow each other.
        guided: True if unconditional rows are needed.
        from_image: True if the run starts from another image.
        task: The task of the call.
        inputs: The common arguments of the call.
    """

    height: int
    width: int
    images_per_prompt: int
    guided: bool
    from_image: bool
    task: Any = None
    inputs: CommonInputs | None = None


class Family:
    """The networks of a bundle that make a condition of prompts. Safe to share between threads.

    Attributes:
        Inputs: Class of its prompt arguments.
        defaults: Name of a task to the defaults of arguments that differ from the general ones.
        controlnet_defaults: The same for pipelines with ControlNets; a task that is missing has none.
        t2i_adapter_defaults: Defaults of arguments of calls with T2I-Adapters.
        normalize_latents: True if `latents_mean` and `latents_std` of the VAE's config count.
        skip_normalization_tasks: Tasks for which diffusers' ControlNet pipelines skip them when decoding.
        begin_index: Value for `scheduler.set_begin_index` in text to image without ControlNets. None lets the scheduler
            search for the first timestep; the result differs when a timestep occurs twice.
        callback_tensors: Names of the tensors of `callback_on_step_end` to inputs of the denoiser.
        scales_latents: True if `init_noise_sigma` scales the first noise, and `scale_model_input` the denoiser's input.
        plans_timesteps: True if `set_timesteps` of this class replaces `denoising.set_timesteps`.
        plans_strength: True if `set_timesteps` leaves out the timesteps that `strength` skips, so that no task does.
        ends_denoised: True if the result is the clean sample that the last step predicts, not the sample it steps to.
        keeps_own_noise: True if inpainting with the caller's `latents` draws other noise for the kept part.
        compute_mu: (image tokens, steps) -> exponent of the resolution-dependent shift; None leaves it to `plan_run`.
        even_sigmas: True if sigmas fall evenly from 1 to 1 / steps where a call names none; see `plan_run`.
        tasks: Names of the tasks that it can do; None for all that fit the denoiser's channels.
        transparent: True if its images have an alpha channel.
        rescales_instruction: True if `guidance_rescale` counts in the task "instruction".
        returns_own_latents: True if `output_type="latent"` returns the VAE's own latents, not the scheduler's.
        returns_flags: True if `return_dict=False` of diffusers' classes also returns the flags of the safety checker.
        choose_guidance: (common arguments, those of the prompts, the denoiser) -> the guidance of a call. None takes
            that of the task.
        choose_size: ((height, width) that a call asks for, arguments of the prompts) -> those that are generated. None
            takes what the call asks for.
        required_args: Arguments that this checkpoint cannot do without.
        noising_scheduler: Adds the noise of `noise_level` to the image of a call; only of upscalers.
        max_noise_level: The largest `noise_level`; only of upscalers.
        watermarker: Draws the checkpoint's watermark on PIL images; None without one.
        depth_estimator: Computes the depth of images; None where the checkpoint has none.
        denoiser: The network that is called in every step.
        text_encoders: In the order in which they are used; none where an image conditions.
    """

    Inputs: ClassVar[type[Any]] = PromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    t2i_adapter_defaults: ClassVar[Mapping[str, Any]] = {}
    normalize_latents: ClassVar[bool] = False
    skip_normalization_tasks: ClassVar[tuple[str, ...]] = ()
    begin_index: ClassVar[int | None] = None
    callback_tensors: ClassVar[Mapping[str, str]] = {"prompt_embeds": "encoder_hidden_states"}
    scales_latents: ClassVar[bool] = True
    plans_timesteps: ClassVar[bool] = False
    plans_strength: ClassVar[bool] = False
    ends_denoised: ClassVar[bool] = False
    keeps_own_noise: ClassVar[bool] = False
    even_sigmas: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = None
    transparent: ClassVar[bool] = False
    rescales_instruction: ClassVar[bool] = False
    returns_own_latents: ClassVar[bool] = False
    returns_flags: ClassVar[bool] = False

    choose_guidance: Callable[[CommonInputs, Any, Any], Guidance] | None = None
    compute_mu: Callable[[int, int], float] | None = None
    choose_size: Callable[[tuple[int, int], Any], tuple[int, int]] | None = None
    required_args: tuple[str, ...] = ()
    noising_scheduler: Scheduler[Any]
    max_noise_level: int
    watermarker: IFWatermarker | None = None
    depth_estimator: DPTForDepthEstimation | None = None
    denoiser: Denoiser
    text_encoders: tuple[TextEncoder, ...] = ()

    def __init__(self, session: EngineSession) -> None:
        """Open the wrappers of its networks; engines are opened when first needed.

        Raises:
            BundleError: The bundle lacks a component, a tokenizer or a config.
        """
        raise NotImplementedError

    def open_vae(self, session: EngineSession) -> AutoencoderKL:
        """Return the wrapper of the VAE, by the class of its network.

        Raises:
            BundleError: The bundle has no VAE decoder, or one of a class that this version does not know.
        """
        return open_vae(session, normalize_latents=self.normalize_latents)

    def set_timesteps(self, scheduler: Scheduler[Any], inputs: CommonInputs, prompts: Any, task: Any) -> int:
        """Plan a run, and return the number of steps as the caller counts them; only with `plans_timesteps`.

        Args:
            scheduler: Gets the plan.
            inputs: The common arguments.
            prompts: Of the class `Inputs`.
            task: The task.

        Raises:
            InputError: The scheduler does not take the arguments.
        """
        raise NotImplementedError

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:  # noqa: ARG002
        """See `PipelineBase.size_arguments`."""
        return {}

    def pack(self, latents: FloatArray) -> FloatArray:
        """Return latents (B, C, h, w) in the shape of diffusers' pipeline class; by default as they are."""
        return latents

    def unpack(self, latents: FloatArray, shape: tuple[int, ...]) -> FloatArray:  # noqa: ARG002
        """Revert `pack` for latents of a call, which may have either shape; by default as they are.

        Args:
            latents: Of any shape.
            shape: Of the latents of the call, (B, C, h, w).
        """
        return latents

    def encode(self, inputs: Any, options: EncodeOptions) -> Condition:
        """Run the encoders.

        Args:
            inputs: Of the class `Inputs`, checked.
            options: The image.

        Raises:
            InputError: A prompt argument does not fit the image or the checkpoint.
        """
        raise NotImplementedError

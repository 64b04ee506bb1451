"""The half of a scheduler that a pipeline's denoising loop calls, the same for every scheduler."""

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample
from diffoundry.runtime.schedulers.config import SchedulerConfig
from diffoundry.runtime.schedulers.step_arguments import takes_diffusers_arguments

if TYPE_CHECKING:
    from diffoundry.runtime.schedulers.base import StepResult

__all__ = ["LoopInterface"]

_WHERE = "'diffoundry schedulers DIR' lists those that fit a bundle."


class LoopInterface:
    """A sampler as a loop sees it.

    scheduler.check_loop(channels=4, output_channels=4)
    scheduler.set_timesteps(20)
    for t in scheduler.model_timesteps:
        output = model(scheduler.scale_model_input(sample, t), t)
        sample = scheduler.loop_step(output, t, sample, generator=generator).prev_sample
    """

    config: SchedulerConfig
    timesteps: NDArray[Any]

    order: ClassVar[int] = 1
    """Model calls of a step."""
    custom_schedules: ClassVar[frozenset[str]] = frozenset()
    """Those of "timesteps", "sigmas" and "mu" that `set_timesteps` takes."""
    takes_eta: ClassVar[bool] = False
    """True where `step` has the argument `eta`."""
    needed_loop: ClassVar[str | None] = None
    """The loop that this scheduler needs, where `loop_step` cannot drive it: its pipeline class and its work."""
    made_for: ClassVar[str | None] = None
    """The models that this scheduler is for, where diffusers' pipelines for Stable Diffusion 1, 2 and XL cannot run it:
    its class there has no `init_noise_sigma`, no `order`, or a `step` with other arguments."""
    runs_unscaled: ClassVar[bool] = True
    """False where diffusers' pipelines that scale no latents, such as Stable Diffusion 3, cannot run it either."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "step" in vars(cls):
            cls.step = takes_diffusers_arguments(cls.step)  # type: ignore[method-assign]

    @property
    def takes_mu(self) -> bool:
        """True where `set_timesteps` uses `mu`: the class knows dynamic shifting, and the config turns it on."""
        return "mu" in self.custom_schedules and bool(self.config.get("use_dynamic_shifting"))

    @property
    def model_timesteps(self) -> NDArray[Any]:
        """The timesteps at which a loop calls the model: nearly always `timesteps`."""
        return self.timesteps

    def step(self, *args: Any, **kwargs: Any) -> "StepResult":
        """Advance the sample by one model call.

        All schedulers take (model_output, timestep, sample), and `generator` by name where they draw noise.
        """
        raise NotImplementedError

    def add_noise(self, original_samples: Float32Array, noise: Float32Array, timesteps: Any) -> Float32Array:  # noqa: ARG002
        """Compute the noisy sample at given timesteps, for image to image.

        Raises:
            InputError: this scheduler cannot.
        """
        raise InputError(f"{type(self).__name__} cannot add noise to an image. Choose another scheduler: {_WHERE}")

    def output_channels(self, channels: int) -> tuple[int, ...]:
        """Return the numbers of output channels that `step` accepts for a sample of `channels` channels."""
        return (channels,)

    def check_loop(
        self,
        *,
        channels: int | None = None,
        output_channels: int | None = None,
        eta: float = 0.0,
        mu: float | None = None,
    ) -> None:
        """Refuse a sampling loop that this scheduler cannot finish, before its first step.

        Such a loop calls the model with `scale_model_input(sample, t)` at each t of `model_timesteps`, then
        `loop_step`. The answer depends on the options alone, so that `set_timesteps` may follow.

        Args:
            channels: of the sample; None leaves channels unchecked.
            output_channels: of the model's output; None leaves channels unchecked.
            eta: as for `loop_step`.
            mu: as for `set_timesteps`, passed by the caller.

        Raises:
            InputError: the scheduler needs another loop or model, or ignores an argument.
        """
        name = type(self).__name__
        if self.needed_loop is not None:
            raise self._refusal(self.needed_loop)
        if channels is not None and output_channels is not None:
            accepted = self.output_channels(channels)
            if output_channels not in accepted:
                raise InputError(
                    f"{name} needs a model with {' or '.join(map(str, accepted))} output channels for a sample of "
                    f"{channels} channels, but this model has {output_channels}. Choose another scheduler: "
                    f"{_WHERE}"
                )
        if eta and not self.takes_eta:
            raise InputError(f"{name} has no eta, but eta is {eta}. Leave it out, or choose DDIMScheduler.")
        if mu is not None and not self.takes_mu:
            raise InputError(
                f"{name} ignores mu, but mu is {mu}. Leave it out, or choose a flow-matching scheduler with the option "
                "'use_dynamic_shifting'."
            )

    def check_latents(self, *, scaled: bool) -> None:
        """Refuse a pipeline in which diffusers cannot run this scheduler, before its first step.

        Args:
            scaled: True if the pipeline scales latents: by `init_noise_sigma` and `scale_model_input`.

        Raises:
            InputError: the scheduler is for other models.
        """
        if self.made_for is None or (self.runs_unscaled and not scaled):
            return
        raise InputError(
            f"{type(self).__name__} is for {self.made_for}, but this checkpoint is another model. Choose another "
            f"scheduler, for example {'EulerDiscreteScheduler' if scaled else 'FlowMatchEulerDiscreteScheduler'}."
        )

    def loop_step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        generator: Generator = None,
        eta: float | None = None,
        **arguments: Any,
    ) -> "StepResult":
        """Call `step` as a sampling loop does: with the same arguments for every scheduler.

        Args:
            model_output: of the model for the input `scale_model_input(sample, timestep)`.
            timestep: one of `model_timesteps`, in order.
            sample: as for `step`.
            generator: source of noise, where the scheduler draws any.
            eta: for schedulers with `takes_eta`, the others ignore it; None is the default of `step`.
            arguments: further keyword arguments of `step` that stay the same for the whole run, such as `s_churn`.
        """
        if eta is not None and self.takes_eta:
            arguments["eta"] = eta
        return self._loop_step(model_output, timestep, sample, generator=generator, **arguments)

    def _loop_step(
        self, model_output: Sample, timestep: Any, sample: Sample, *, generator: Generator, **arguments: Any
    ) -> "StepResult":
        """Call `step`; overridden where it needs more, such as the timestep or the clean sample of the call before."""
        return self.step(model_output, timestep, sample, generator=generator, **arguments)

    def _refusal(self, needed_loop: str) -> InputError:
        return InputError(
            f"{type(self).__name__} cannot run in this denoising loop. It needs {needed_loop}. "
            f"Choose another scheduler: {_WHERE}"
        )

    def _refuse_timesteps(self, option: str) -> NoReturn:
        """Refuse custom timesteps beside an option that computes them."""
        raise InputError(
            f"{type(self).__name__}.set_timesteps: got timesteps, but the option {option} computes them. "
            "Pass num_inference_steps, or turn the option off."
        )

"""Sana: text to image by a transformer with linear attention, with a ControlNet, and with perturbed attention."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.pixels import preprocess
from diffoundry.runtime.models.controlnet import ControlNetModel, controlnet_name
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.registry import open_controlnet
from diffoundry.runtime.pipelines.denoising import Predict, Step
from diffoundry.runtime.pipelines.example_inputs import CONTROL
from diffoundry.runtime.pipelines.input_shapes import shape_of_input
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.perturbed_attention import perturbed_predict
from diffoundry.runtime.pipelines.systems.sana_base import SanaBase
from diffoundry.runtime.pipelines.systems.sana_inputs import SanaInputs, SanaPAGInputs

__all__ = ["Sana", "SanaPAG"]


class Sana(SanaBase):
    """diffusers: `SanaPipeline`, `SanaControlNetPipeline`. Xie et al. 2024, https://arxiv.org/abs/2410.10629.

    Attributes:
        controlnet: None where the bundle has none.
    """

    Inputs: ClassVar[type[Any]] = SanaInputs

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        super().open_networks(session)
        self.controlnet: ControlNetModel | None = None
        if controlnet_name(0) in session.bundle.components:
            self.controlnet = open_controlnet(session, controlnet_name(0))

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`: an image for the ControlNet."""
        return () if self.controlnet is None else (CONTROL,)

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler, channels = call.inputs, call.scheduler, self.transformer.in_channels
        self.check_embeddings(inputs)
        if inputs.control_image is not None and self.controlnet is None:
            raise InputError(
                "control_image: got one, but this bundle has no ControlNet; leave it out, or export with --controlnet"
            )
        scheduler.check_loop(channels=channels, output_channels=channels, eta=inputs.eta)
        scheduler.check_latents(scaled=False)
        own = {"timesteps": inputs.timesteps, "sigmas": inputs.sigmas}
        given = any(values is not None for values in own.values())
        scheduler.set_timesteps(None if given else inputs.num_inference_steps, **own)

        def run(_: FloatArray | None) -> Iterator[Step]:
            shape = self.transformer.latent_shape(call.images, *call.size, self.vae)
            start = call.start_noise(shape, inputs.latents)
            return call.denoise(self._predict(call), start, eta=inputs.eta, scale_input=False)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def _predict(self, call: StagedCall) -> Predict:
        """Return the guided network, with its ControlNet where the call has an image for it."""
        inputs = call.inputs
        guided = inputs.guidance_scale > 1
        feeds = self.caption_feeds(inputs, guided=guided)
        if not self.transformer.residual_inputs:
            return self.guided_predict(inputs, feeds, self._scaled)
        image = None if inputs.control_image is None else self._control_latents(call, copies=1 + guided)
        scale = 1.0 if inputs.controlnet_conditioning_scale is None else inputs.controlnet_conditioning_scale

        def predict(rows: FloatArray, timestep: float, states: Feeds) -> FloatArray:
            residuals = self._residuals(rows, timestep, states, image, scale)
            return self.transformer(rows, timestep, {**states, **residuals})

        return self.guided_predict(inputs, feeds, predict)

    def _scaled(self, rows: FloatArray, timestep: float, feeds: Feeds) -> FloatArray:
        """Call the transformer; diffusers scales timesteps where there is no ControlNet."""
        return self.transformer(rows, timestep * self.transformer.layout.timestep_scale, feeds)

    def _control_latents(self, call: StagedCall, *, copies: int) -> FloatArray:
        """Return the latents of the control image, a row for each of the transformer's.

        diffusers: `SanaControlNetPipeline.prepare_image`.

        Raises:
            InputError: There are as many images neither as prompts nor as one.
        """
        inputs = call.inputs
        pixels = preprocess(inputs.control_image, *call.size, factor=1, name=CONTROL)
        if len(pixels) not in (1, inputs.count):
            raise InputError(
                f"control_image: got {len(pixels)} images for {inputs.count} prompts, expected one, or one for each"
            )
        latents = self.vae.normalize(self.vae.mode(pixels))
        rows = np.repeat(latents, call.images // len(latents), axis=0)
        return np.concatenate([rows] * copies)

    def _residuals(
        self, rows: FloatArray, timestep: float, feeds: Feeds, image: FloatArray | None, scale: float
    ) -> Feeds:
        """Return the residuals of the ControlNet that the transformer takes; without an image zeros, or nothing."""
        if image is not None and self.controlnet is not None:
            found = self.controlnet(rows, timestep, feeds, image, scale=scale)
            return {spec.name: found[spec.name] for spec in self.transformer.residual_inputs}
        return {
            spec.name: np.zeros(
                shape_of_input(
                    spec.shape, rows.shape, copies=1, scale_factor=self.scale_factor, owner="a ControlNet"
                ),
                np.float32,
            )
            for spec in self.transformer.residual_inputs
            if spec.name not in self.session.idle_inputs(self.transformer.component)
        }  # fmt: skip


class SanaPAG(Sana):
    """diffusers: `SanaPAGPipeline`. Ahn et al. 2024, https://arxiv.org/abs/2403.17377."""

    Inputs: ClassVar[type[Any]] = SanaPAGInputs

    def _predict(self, call: StagedCall) -> Predict:
        """Return the network, guided by the negative prompt and away from perturbed attention."""
        inputs = call.inputs
        if not inputs.pag_scale > 0:
            return super()._predict(call)
        feeds = self.caption_feeds(inputs, guided=inputs.guidance_scale > 1)

        def network(rows: FloatArray, timestep: float, whole: Feeds) -> FloatArray:
            return self.drop_variance(self._scaled(rows, timestep, whole))

        return perturbed_predict(inputs, feeds, call.images, self.transformer.layout.layers, network)

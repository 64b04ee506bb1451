"""StableCascadeUNet as a traceable module."""

from collections.abc import Mapping
from typing import Any

import torch

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.exporter.components.patch_convolution import patch_convolution

__all__ = ["StableCascadeModule"]


class StableCascadeModule(NetworkModule):
    """Cuts a sample into patches with one strided convolution, where the network moves them into channels first.

    The features "effnet" have the size of the patches already, and the pixels that the decoder takes are zeros, so that
    neither is resized. diffusers: `StableCascadeUNet.forward`.
    """

    def __init__(self, network: torch.nn.Module, component: Component) -> None:
        super().__init__(network, component)
        model: Any = network
        self.norm = model.embedding[2]
        self.patches = patch_convolution(model.embedding[1], model.config.in_channels, model.config.patch_size)
        if hasattr(model, "pixels_mapper"):
            pixels = torch.zeros(1, model.config.pixel_mapper_in_channels, 1, 1)
            self.register_buffer("pixels", model.pixels_mapper(pixels))

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: features as large as the patches."""
        if passed.get("effnet") is None:
            return {}
        sides = [side // network.config.patch_size for side in passed["sample"].shape[2:]]
        interpolate = torch.nn.functional.interpolate
        return {"effnet": interpolate(passed["effnet"], size=sides, mode="bilinear", align_corners=True)}

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        model: Any = self.model
        sample, ratio = keywords["sample"], keywords["timestep_ratio"]
        kinds = (ratio, *(torch.zeros_like(ratio) for _ in model.config.timestep_conditioning_type))
        times = torch.cat([model.get_timestep_ratio_embedding(kind) for kind in kinds], dim=1)
        clip = model.get_clip_embeddings(
            clip_txt_pooled=keywords["clip_text_pooled"],
            clip_txt=keywords.get("clip_text"),
            clip_img=keywords.get("clip_img"),
        )
        features = self.norm(self.patches(sample))
        if "effnet" in keywords:
            features = features + model.effnet_mapper(keywords["effnet"])
        if hasattr(model, "pixels_mapper"):
            features = features + self.pixels
        # The two halves between the parts that are different here.
        levels = model._down_encode(features, times, clip)  # noqa: SLF001
        return {"sample": model.clf(model._up_decode(levels, times, clip))}  # noqa: SLF001

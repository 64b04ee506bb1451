"""Perturbed-attention guidance: away from what a transformer predicts when tokens of some layers see themselves alone.

Ahn et al. 2024, https://arxiv.org/abs/2403.17377. diffusers: `PAGMixin`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.denoising import Predict

__all__ = [
    "PerturbedInputs",
    "PerturbedLayers",
    "block_layers",
    "check_perturbed",
    "find_layers",
    "layer_names",
    "perturbed_predict",
    "scale_at",
]

_NAME = re.compile(r"[A-Za-z0-9_.]+")
"""Names of layers, and parts of them; a dot is any character, as in diffusers' regular expressions."""


class PerturbedLayers(Protocol):
    """The arguments of one call for perturbed attention."""

    @property
    def pag_scale(self) -> float:
        """Factor of the guidance away from perturbed attention; 0 runs without it."""

    @property
    def pag_adaptive_scale(self) -> float:
        """Decrease of this factor for each timestep below 1000."""

    @property
    def pag_applied_layers(self) -> str | Sequence[str]:
        """Names of the layers that are perturbed, or parts of them."""


class PerturbedInputs(PerturbedLayers, Protocol):
    """The arguments of one call."""

    @property
    def guidance_scale(self) -> float:
        """Scale of guidance by the negative prompt."""


def check_perturbed(inputs: PerturbedLayers) -> None:
    """Refuse numbers out of range, and names that are none, with an `InputError`."""
    for name in ("pag_scale", "pag_adaptive_scale"):
        check_number(name, getattr(inputs, name), 0, np.inf)
    for layer in layer_names(inputs):
        if not isinstance(layer, str) or not _NAME.fullmatch(layer):
            raise InputError(
                f"pag_applied_layers: got {layer!r}, expected names of layers such as 'mid' or 'transformer_blocks.8'"
            )


def layer_names(inputs: PerturbedLayers) -> list[str]:
    """Return `pag_applied_layers` as a list."""
    layers = inputs.pag_applied_layers
    return [layers] if isinstance(layers, str) else list(layers)


def scale_at(inputs: PerturbedLayers, timestep: float) -> np.float32:
    """Return the factor of a step. diffusers: `PAGMixin._get_pag_scale`."""
    return np.float32(max(inputs.pag_scale - inputs.pag_adaptive_scale * (1000 - timestep), 0.0))


def perturbed_predict(
    inputs: PerturbedInputs,
    feeds: Feeds,
    images: int,
    layers: int,
    network: Callable[[FloatArray, float, Feeds], FloatArray],
) -> Predict:
    """Return a network, guided by the negative prompt and away from perturbed attention.

    e_u + g (e_c - e_u) + s (e_c - e_p), where e_p is the prediction of a further row for each prompt.

    Args:
        inputs: Of the call.
        feeds: Inputs of prompts, those of negative prompts first where they guide.
        images: Rows of each.
        layers: Of the network.
        network: Called with all rows.

    Raises:
        InputError: No layer has such a name.
    """
    chosen, guided = find_layers(inputs, block_layers(layers)), inputs.guidance_scale > 1
    copies, scale = 2 + guided, np.float32(inputs.guidance_scale)
    whole = {name: np.concatenate([array, array[-images:]]) for name, array in feeds.items()}
    identity = np.zeros((images * copies, layers), np.float32)
    identity[-images:, chosen] = 1.0
    whole[IDENTITY_LAYERS] = identity

    def predict(latents: FloatArray, timestep: float, _index: int) -> FloatArray:
        parts = np.split(network(np.concatenate([latents] * copies), timestep, whole), copies)
        text, perturbed = parts[-2:]
        away = scale_at(inputs, timestep) * (text - perturbed)
        if not guided:
            return text + away
        combined: FloatArray = parts[0] + scale * (text - parts[0]) + away
        return combined

    return predict


def block_layers(count: int, blocks: str = "transformer_blocks") -> list[str]:
    """Return the names of the self-attentions of a transformer in diffusers.

    Args:
        count: Of layers.
        blocks: Name of the list of layers.
    """
    return [f"{blocks}.{index}.attn1" for index in range(count)]


def find_layers(inputs: PerturbedLayers, modules: Sequence[str]) -> list[int]:
    """Return the numbers of the layers that are perturbed. diffusers: `PAGMixin._set_pag_attn_processor`.

    Args:
        inputs: Of the call.
        modules: Names of the self-attentions in diffusers.

    Raises:
        InputError: A name fits none.
    """
    chosen = set()
    for name in layer_names(inputs):
        found = [index for index, module in enumerate(modules) if re.search(name, module)]
        if not found:
            first, last = (modules[index].removesuffix(".attn1") for index in (0, -1))
            raise InputError(
                f"pag_applied_layers: got {name!r}, which fits no layer, expected names such as {first!r} to {last!r}"
            )
        chosen.update(found)
    return sorted(chosen)

"""Decoder-only language models as a traceable module, with plain arithmetic for the mask."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.runtime.models.qwen3_vision import deepstack_name

__all__ = [
    "CausalImageTextModule",
    "CausalTextModule",
    "DeepstackTextModule",
    "LeftPaddedTextModule",
    "find_decoder",
    "without_last_norm",
]

_HIDDEN = -1e4
"""Added to the scores of hidden tokens. exp(-1e4) is 0 in every float type."""

_PARTS = ("model", "language_model")
"""Attributes of transformers' classes that lead to the decoder."""


def find_decoder(model: Any) -> Any:
    """Return the part of a model that has the embeddings, the layers and the last norm."""
    while not hasattr(model, "embed_tokens"):
        model = next(getattr(model, name) for name in _PARTS if hasattr(model, name))
    return model


class CausalTextModule(NetworkModule):
    """Computes some of the hidden states of a language model, up to the last of them.

    transformers: `Qwen3Model.forward`, `Qwen2_5_VLTextModel.forward`, `Gemma2Model.forward`, without a cache. Angles of
    rotary positions are inputs, one number for the pair that it rotates.
    """

    def __init__(self, network: Any, component: Component) -> None:
        super().__init__(network, component)
        self.indices = tuple(int(name.rpartition(".")[2]) for name in self.outputs)

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: cosines and sines of tokens that are counted from the left."""
        decoder, ids = find_decoder(network), passed["input_ids"]
        positions = torch.arange(ids.shape[1]).expand(ids.shape)
        three = hasattr(decoder.rotary_emb, "mrope_section")
        tables = decoder.rotary_emb(
            torch.zeros((), dtype=torch.float32), positions.expand(3, *ids.shape) if three else positions
        )
        cos, sin = (table[..., : table.shape[-1] // 2] for table in tables)
        return {"rotary_cos": cos, "rotary_sin": sin}

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode prompts.

        Args:
            tensors: input_ids, int32 (batch, sequence). attention_mask, float32 (batch, sequence), 1 for a token and 0
                for padding. Cosines and sines, float32 (batch, sequence, head / 2).

        Returns:
            The hidden states (batch, sequence, width) that the component names.
        """
        input_ids, attention_mask, cos, sin, *seen = tensors
        decoder = find_decoder(self.model)
        angles = torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)
        mask = _causal_mask(attention_mask)
        states = decoder.embed_tokens(input_ids)
        if seen:
            embeds, places = seen[0], seen[1][..., None]
            states = states * (1.0 - places) + embeds * places
        found = {0: states}
        for index, layer in enumerate(decoder.layers[: max(self.indices)], start=1):
            states = self.run_layer(layer, states, attention_mask, attention_mask=mask, position_embeddings=angles)
            states = self.see_again(states, index, seen[2:])
            found[index] = states
        if len(decoder.layers) in self.indices:
            found[len(decoder.layers)] = self.end(decoder, states)
        return tuple(found[index] for index in self.indices)

    def see_again(self, states: torch.Tensor, _index: int, _seen: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return states after a layer, counted from 1, with what they see of images again; by default nothing."""
        return states

    def end(self, decoder: Any, states: torch.Tensor) -> torch.Tensor:
        """Return the last hidden state, which is normalized by default."""
        normalized: torch.Tensor = decoder.norm(states)
        return normalized

    def run_layer(self, layer: Any, states: torch.Tensor, _seen: torch.Tensor, **options: Any) -> torch.Tensor:
        """Run one layer on states (batch, sequence, width).

        Args:
            layer: Of the decoder.
            states: Result of the layer before.
            _seen: Mask of the prompts, (batch, sequence), for subclasses.
            options: Mask of the scores, and angles.
        """
        result = layer(states, **options)
        found: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return found


class LeftPaddedTextModule(CausalTextModule):
    """Computes padding to the left as torch does: a token that sees nothing attends to nothing, and gets zeros.

    transformers: `MistralDecoderLayer.forward` with `scaled_dot_product_attention`.
    """

    def run_layer(self, layer: Any, states: torch.Tensor, _seen: torch.Tensor, **options: Any) -> torch.Tensor:
        """See `CausalTextModule`."""
        seeing = torch.cumsum(_seen, dim=1).clamp(0.0, 1.0)[..., None]
        attended = layer.self_attn(hidden_states=layer.input_layernorm(states), **options)[0]
        states = states + attended * seeing
        result: torch.Tensor = states + layer.mlp(layer.post_attention_layernorm(states))
        return result


class CausalImageTextModule(CausalTextModule):
    """Also takes tokens of images (batch, sequence, width), and 1 where they are and 0 elsewhere, (batch, sequence)."""

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: those of a text without images too."""
        own, ids = CausalTextModule.computed_inputs(network, passed), passed["input_ids"]
        width = find_decoder(network).embed_tokens.embedding_dim
        return {**own, "image_embeds": torch.zeros(*ids.shape, width), "image_mask": torch.zeros(ids.shape)}


class DeepstackTextModule(CausalImageTextModule):
    """Also adds other features of images (batch, sequence, width), zeros elsewhere, after the first layers.

    Its last hidden state is not normalized. DeepStack, Meng et al. 2024, https://arxiv.org/abs/2406.04334.
    transformers: `Qwen3VLTextModel.forward`.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: those of a text without images too."""
        own = CausalImageTextModule.computed_inputs(network, passed)
        vision = getattr(network, "model", network).visual
        names = map(deepstack_name, range(len(vision.deepstack_visual_indexes)))
        return {**own, **{name: torch.zeros_like(own["image_embeds"]) for name in names}}

    def see_again(self, states: torch.Tensor, _index: int, _seen: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `CausalTextModule`."""
        return states + _seen[_index - 1] if _index <= len(_seen) else states

    def end(self, decoder: Any, states: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """See `CausalTextModule`. diffusers: `QwenImage21Pipeline._get_qwen_prompt_embeds`, which skips the norm."""
        return states


@contextmanager
def without_last_norm(model: Any, wrapper: type[Any]) -> Iterator[None]:
    """Leave the last hidden state of a language model as the traced module of class `wrapper` does."""
    if not issubclass(wrapper, DeepstackTextModule):
        yield
        return
    hook = find_decoder(model).norm.register_forward_hook(lambda _norm, args, _output: args[0])
    try:
        yield
    finally:
        hook.remove()


def _causal_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return what is added to scores, (batch, 1, sequence, sequence): a token sees itself and tokens to its left."""
    places = torch.arange(attention_mask.shape[1], dtype=torch.float32)
    later = (places[None, :] - places[:, None]).clamp(0.0, 1.0)
    return ((1.0 - attention_mask)[:, None, None, :] + later) * _HIDDEN

"""FluxTransformer2DModel as a traceable module, whose rotary positions are inputs."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.transformer_module import TransformerModule
from diffoundry.runtime.models.controlnet import block_residual_name, single_block_residual_name
from diffoundry.runtime.models.image_projection import embeds_name, scale_name

__all__ = ["FluxEmbeddings", "FluxModule", "token_sides", "with_text"]

_PERIOD = 10000
"""Longest wavelength of timesteps. diffusers: `get_timestep_embedding`."""

_TRAINED = 1000
"""Timesteps of the training, and the scale of guidance. diffusers: `FluxTransformer2DModel.forward`."""


class FluxEmbeddings(TransformerModule):
    """The parts that the transformers of FLUX.1 and FLUX.2, and ControlNets, have in common.

    diffusers computes the angles of every token from its position. Here their cosines and sines are inputs, one number
    for the pair that it rotates. Tokens of the prompt are at position zero, whose rotation is none.
    """

    embedding: ClassVar[str] = "time_text_embed"
    """Attribute of the network that embeds the timestep."""

    def __init__(self, network: Any, component: Component) -> None:
        super().__init__(network, component)
        proj = getattr(network, self.embedding).time_proj
        half = proj.num_channels // 2
        # As diffusers computes them, to the bit: angles of a guidance scale are up to 30,000.
        exponent = -math.log(_PERIOD) * torch.arange(half, dtype=torch.float32) / (half - proj.downscale_freq_shift)
        self.register_buffer("frequencies", torch.exp(exponent), persistent=False)

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: tokens in rows and columns, and their angles."""
        ids, states = passed["img_ids"], passed["hidden_states"]
        place = token_sides(ids)
        count = place[0] * place[1]
        cos, sin = (table[:, ::2] for table in network.pos_embed(ids))
        own = {"hidden_states": states[:, :count].unflatten(1, place)}
        return own | {"rotary_cos": cos[:count].unflatten(0, place), "rotary_sin": sin[:count].unflatten(0, place)}

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        """See `NetworkModule.graph_outputs`: tokens in rows and columns."""
        rows, columns = token_sides(passed["img_ids"])
        own = {name: array[:, : rows * columns] for name, array in outputs.items()}
        return {name: array.reshape(len(array), rows, columns, -1) for name, array in own.items()}

    def embed(
        self,
        timestep: torch.Tensor,
        guidance: torch.Tensor | None,
        pooled_projections: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the embedding of a timestep (1,), and where given of guidance scales (B,) and pooled prompts."""
        embed: Any = getattr(self.model, self.embedding)
        embedded: torch.Tensor = embed.timestep_embedder(self._waves(timestep))
        if guidance is not None:
            embedded = embedded + embed.guidance_embedder(self._waves(guidance))
        return embedded if pooled_projections is None else embedded + embed.text_embedder(pooled_projections)

    def angles(self, context: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tables of cosines and sines of the tokens of text (B, T, C) and image, (tokens, D / 2) each."""
        return with_text(cos, context, 1.0), with_text(sin, context, 0.0)

    def _waves(self, scale: torch.Tensor) -> torch.Tensor:
        """Return cosines and sines of timesteps or scales (B,), (B, 256). diffusers: `get_timestep_embedding`."""
        frequencies: Any = self.frequencies
        angles = (scale * _TRAINED)[:, None] * frequencies
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class FluxModule(FluxEmbeddings):
    """Predicts the velocity of tokens. diffusers: `FluxTransformer2DModel.forward`.

    Residuals of ControlNets, which have the sides of the image, are added after the blocks.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: those of `FluxEmbeddings`, of a reference, and residuals."""
        ids, states = passed["img_ids"], passed["hidden_states"]
        place = token_sides(ids)
        count = place[0] * place[1]
        own = FluxEmbeddings.computed_inputs(network, passed)
        for name, group in _RESIDUALS.items():
            parts = passed.get(group) or ()
            own |= {name(index): part.unflatten(1, place) for index, part in enumerate(parts)}
        if count == len(ids):
            return own
        cos, sin = (table[count:, ::2] for table in network.pos_embed(ids))
        return {**own, "reference_hidden_states": states[:, count:], "reference_cos": cos, "reference_sin": sin}

    def _predict(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        guidance: torch.Tensor | None = None,
        *,
        controlnet_blocks_repeat: bool = False,
        **others: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        tokens, cos, sin = hidden_states.flatten(1, 2), rotary_cos.flatten(0, 1), rotary_sin.flatten(0, 1)
        count, reference = tokens.shape[1], others.get("reference_hidden_states")
        if reference is not None:
            tokens = torch.cat([tokens, reference], dim=1)
            cos, sin = torch.cat([cos, others["reference_cos"]]), torch.cat([sin, others["reference_sin"]])
        states = network.x_embedder(tokens)
        embedded = self.embed(timestep, guidance, pooled_projections)
        context = network.context_embedder(encoder_hidden_states)
        angles = self.angles(context, cos, sin)
        for blocks, name in zip(
            (network.transformer_blocks, network.single_transformer_blocks), _RESIDUALS, strict=True
        ):
            residuals = [others[own].flatten(1, 2) for own in map(name, range(len(blocks))) if own in others]
            repeats = controlnet_blocks_repeat and blocks is network.transformer_blocks
            for index, block in enumerate(blocks):
                context, states = block(
                    hidden_states=states,
                    encoder_hidden_states=context,
                    temb=embedded,
                    image_rotary_emb=angles,
                    joint_attention_kwargs=_image_prompts(block, index, others),
                )
                if residuals:
                    interval = math.ceil(len(blocks) / len(residuals))
                    states = states + residuals[index % len(residuals) if repeats else index // interval]
        own = states if reference is None else states[:, :count]
        velocity: torch.Tensor = network.proj_out(network.norm_out(own, embedded))
        return velocity.reshape(velocity.shape[0], *place, -1)


_RESIDUALS = {
    block_residual_name: "controlnet_block_samples",
    single_block_residual_name: "controlnet_single_block_samples",
}
"""Name of a residual by its number, to the list of these residuals in diffusers' `forward`."""


def _image_prompts(block: Any, index: int, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Set the scales of IP-Adapters, tensors here, and return what their attention takes; None without them.

    Args:
        block: Block of the network.
        index: Its number.
        inputs: Inputs of the graph.
    """
    processor: Any = block.attn.processor
    if not hasattr(processor, "to_k_ip"):
        return None
    count = len(processor.to_k_ip)
    processor.scale = [inputs[scale_name(adapter)][:, index, :, None] for adapter in range(count)]
    return {"ip_hidden_states": [inputs[embeds_name(adapter)].flatten(1, 2) for adapter in range(count)]}


def token_sides(ids: torch.Tensor) -> tuple[int, int]:
    """Return rows and columns of the tokens at positions (tokens, 3), without those of a reference."""
    own = ids[ids[:, 0] == 0]
    rows, columns = (int(own[:, axis].max()) + 1 for axis in (1, 2))
    return rows, columns


def with_text(table: torch.Tensor, context: torch.Tensor, value: float) -> torch.Tensor:
    """Return a table (tokens of the text and of the image, 2 D), with two equal numbers for a pair."""
    text = torch.full_like(context[0, :, :1], value).expand(-1, table.shape[-1])
    return torch.cat([text, table]).repeat_interleave(2, dim=-1)

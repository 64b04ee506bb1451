"""QwenImage21Transformer2DModel as a traceable module: the tokens before the result apart, and positions as inputs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from diffoundry.exporter.components.rotate_pairs import Angles, pair_tables, rotate_pairs
from diffoundry.exporter.components.transformer_module import TransformerModule
from diffoundry.runtime.models.qwen_image_21_transformer_2d import SLOT, sequence_tables

__all__ = ["QwenImage21Module"]

_HIDDEN = -1e4
"""Added to the scores of hidden tokens. exp(-1e4) is 0 in every float type."""


class _Part(NamedTuple):
    """Tokens of one part of the sequence.

    Attributes:
        states: (B, tokens, D).
        angles: Cosines and sines of their positions, (1 or B, tokens, 1, head).
        hidden: Added to the scores of all keys that they see, those of the part before included.
        numbers: Scale and gate of the first half of a block, and of the second, (1, 1, D) each.
    """

    states: torch.Tensor
    angles: Angles
    hidden: torch.Tensor
    numbers: tuple[torch.Tensor, ...]


class QwenImage21Module(TransformerModule):
    """Predicts the velocity of tokens. diffusers: `QwenImage21Transformer2DModel.forward`.

    Text and other images do not see the result, and the network takes them for clean whatever the timestep. So they are
    computed apart, before it: a graph that is cut (`export --partition`) computes them once for all steps, as diffusers
    does with `use_kv_cache`. Their order counts only by their positions and by what each sees, which are inputs. Here
    the text comes first, and other images after it. Timesteps are embedded once for all rows.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: the parts of the sequence, their positions, and what they see."""
        shapes = [shape[1:] for shape in passed["img_shapes"][0]]
        *grids, place = shapes
        count = place[0] * place[1]
        states, context = passed["hidden_states"], passed["encoder_hidden_states"]
        slots = passed["img_mask"][0][: context.shape[1]].bool()
        mask = passed.get("encoder_hidden_states_mask")
        mask = torch.ones(context.shape[:2]) if mask is None else mask
        text = (~slots).nonzero()[:, 0]
        places = slots.nonzero()[:, 0].tolist()
        starts, taken = [], 0
        for rows, columns in grids:
            starts.append(int((text < places[taken]).sum()))
            taken += rows * columns // SLOT**2
        tables = sequence_tables(len(text), starts, grids)
        whole = network.pos_embed(passed["img_shapes"][0], _spread(passed["img_mask"][0]), states.device)
        order = np.concatenate([tables.text_order, tables.image_order]).astype(np.int64)
        before, after = whole[torch.from_numpy(order)], whole[-count:]
        angles = {"text": before[: len(text)], "reference": before[len(text) :]}
        rotary = after.unflatten(0, place)[None].expand(len(states), -1, -1, -1)
        return {
            "hidden_states": states[:, -count:].unflatten(1, place),
            "encoder_hidden_states": context[:, text],
            "encoder_hidden_states_mask": mask[:, text].float(),
            "rotary_cos": rotary.real,
            "rotary_sin": rotary.imag,
            **{f"{name}_cos": part.real for name, part in angles.items()},
            **{f"{name}_sin": part.imag for name, part in angles.items()},
            "text_order": torch.from_numpy(tables.text_order),
            "reference_hidden_states": states[:, :-count],
            "reference_order": torch.from_numpy(tables.image_order),
            "reference_last": torch.from_numpy(tables.image_last),
        }

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        """See `NetworkModule.graph_outputs`: tokens in rows and columns."""
        _, rows, columns = passed["img_shapes"][0][-1]
        own = {name: array[:, -rows * columns :] for name, array in outputs.items()}
        return {name: array.reshape(len(array), rows, columns, -1) for name, array in own.items()}

    def _predict(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        **others: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        states = network.img_in(hidden_states.flatten(1, 2))
        embedded = network.time_text_embed(timestep, states)
        before = self._before(encoder_hidden_states, encoder_hidden_states_mask, **others)
        seen = functional.pad(
            encoder_hidden_states_mask,
            (0, before.states.shape[1] - encoder_hidden_states_mask.shape[1] + states.shape[1]),
            value=1.0,
        )
        target = _Part(
            states,
            pair_tables(rotary_cos.flatten(1, 2), rotary_sin.flatten(1, 2)),
            ((1.0 - seen) * _HIDDEN)[:, None, None, :],
            self._numbers(embedded),
        )
        for block in network.transformer_blocks:
            before, target = _run_block(block, before, target)
        velocity: torch.Tensor = network.proj_out(network.norm_out(target.states, embedded))
        return velocity.reshape(velocity.shape[0], *place, -1)

    def _before(
        self,
        context: torch.Tensor,
        mask: torch.Tensor,
        text_cos: torch.Tensor,
        text_sin: torch.Tensor,
        text_order: torch.Tensor,
        reference_hidden_states: torch.Tensor,
        reference_cos: torch.Tensor,
        reference_sin: torch.Tensor,
        reference_order: torch.Tensor,
        reference_last: torch.Tensor,
    ) -> _Part:
        """Return the text and other images, which see what comes before them; an image also sees all of itself."""
        network: Any = self.model
        states = torch.cat([network.txt_in(context), network.img_in(reference_hidden_states)], dim=1)
        order = torch.cat([text_order, reference_order])
        limits = torch.cat([text_order, reference_last])
        later = (order[None, :] - limits[:, None]).clamp(0.0, 1.0)
        padding = functional.pad(1.0 - mask, (0, reference_order.shape[0]))[:, None, None, :]
        angles = pair_tables(torch.cat([text_cos, reference_cos])[None], torch.cat([text_sin, reference_sin])[None])
        # No constant, whose layers would be folded and have no LoRAs.
        clean = network.time_text_embed(text_order[:1] * 0.0, states)
        return _Part(states, angles, (padding + later) * _HIDDEN, self._numbers(clean))

    def _numbers(self, embedded: torch.Tensor) -> tuple[torch.Tensor, ...]:
        network: Any = self.model
        return network.modulation(embedded)[:, None].chunk(4, dim=-1)  # type: ignore[no-any-return]


def _run_block(block: Any, before: _Part, target: _Part) -> tuple[_Part, _Part]:
    """Run a block of both parts. diffusers: `QwenImage21TransformerBlock.forward`."""
    _, key, value = first = _project(block, before)
    own, own_key, own_value = _project(block, target)
    keys, values = torch.cat([key, own_key], dim=2), torch.cat([value, own_value], dim=2)
    return _finish(block, before, first), _finish(block, target, (own, keys, values))


def _project(block: Any, part: _Part) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values (B, heads, tokens, width). diffusers: `_qwenimage21_prepare_qkv`."""
    attn = block.attn
    width = attn.inner_dim // attn.heads
    states = block.img_norm1(part.states) * (1.0 + part.numbers[0])
    query, key, value = (
        layer(states).unflatten(-1, (attn.heads, width)) for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    query, key = (rotate_pairs(one, part.angles) for one in (attn.norm_q(query), attn.norm_k(key)))
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _finish(block: Any, part: _Part, projected: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> _Part:
    """Attend, and run the second half of a block."""
    _, gate, scale, last_gate = part.numbers
    attended = functional.scaled_dot_product_attention(*projected, attn_mask=part.hidden)
    states = part.states + gate.tanh() * block.attn.to_out[0](attended.transpose(1, 2).flatten(2))
    inner = block.img_norm2(states) * (1.0 + scale)
    return part._replace(states=states + last_gate.tanh() * block.img_mlp(inner))


def _spread(slots: torch.Tensor) -> torch.Tensor:
    """Return which tokens of the whole sequence are of images, of the same for the language model."""
    return torch.repeat_interleave(slots.bool(), torch.where(slots.bool(), SLOT**2, 1))

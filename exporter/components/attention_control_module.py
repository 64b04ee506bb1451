"""Torch module of a UNet whose attention is edited from outside: attention processors that read further inputs.

Neither edit needs the probabilities. (P_b M + P_r c) V = P_b (M V) + P_r (c V) are two attentions with other values.
Self attention with the probabilities of the base row is attention with its queries and keys. So both stay in the form
that engines fuse. Only the layers whose maps are put out compute probabilities.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.attention_control import map_level
from diffoundry.exporter.components.attention_processor import AttentionProcessor, split_axis
from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.runtime.models.attention_control import (
    ATTENTION_MAPS,
    BASE_ROWS,
    CONTROL_INPUTS,
    CROSS_KEEP,
    CROSS_MAP,
    SELF_LIMIT,
)

__all__ = ["AttentionControlModule"]


class AttentionControlModule(NetworkModule):
    """Calls a UNet with edited attention; see `runtime.models.attention_control`."""

    def __init__(self, network: torch.nn.Module, component: Component) -> None:
        super().__init__(network, component)
        unet: Any = network
        self._state = _State()
        self._level = map_level(unet.config)
        processors = {}
        for name, processor in unet.attn_processors.items():
            if ".transformer_blocks." not in name:
                processors[name] = processor
            elif name.endswith("attn1.processor"):
                processors[name] = _SelfAttention(self._state)
            elif _level_of(name, len(unet.config.up_block_types)) == self._level:
                processors[name] = _ShownCrossAttention(self._state)
            else:
                processors[name] = _CrossAttention(self._state)
        unet.set_attn_processor(processors)

    def run(self, **keywords: Any) -> dict[str, torch.Tensor]:
        """Call the network, and average the maps of its layers."""
        self._state.inputs = {name: keywords.pop(name) for name in CONTROL_INPUTS}
        self._state.maps = []
        sample = self.model(**keywords).sample
        height, width = keywords["sample"].shape[2:]
        for _ in range(self._level):
            height, width = (height + 1) // 2, (width + 1) // 2
        maps = torch.stack(self._state.maps).mean(0).transpose(1, 2)
        return {"sample": sample, ATTENTION_MAPS: split_axis(maps, 2, (height, width))}


class _State:
    """Inputs and maps of the call that is traced.

    Attributes:
        inputs: Name to tensor of `CONTROL_INPUTS`.
        maps: Of each layer so far: (batch, pixels, tokens), the mean of its heads.
    """

    inputs: dict[str, torch.Tensor]
    maps: list[torch.Tensor]

    def base(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the base row of every row."""
        return tensor.index_select(0, self.inputs[BASE_ROWS])


class _Processor(AttentionProcessor):
    """A processor that reads the inputs of the call."""

    def __init__(self, state: _State) -> None:
        self.state = state


class _SelfAttention(_Processor):
    def attend(self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        base = self.state.inputs[BASE_ROWS]
        own = torch.arange(query.shape[0], dtype=base.dtype, device=base.device)
        rows = torch.where(self.state.inputs[SELF_LIMIT] >= query.shape[2], base, own)
        query, key = query.index_select(0, rows), key.index_select(0, rows)
        return scaled_dot_product_attention(query, key, value, scale=attn.scale)


class _CrossAttention(_Processor):
    def attend(self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        taken = self.state.inputs[CROSS_MAP][:, None] @ value
        kept = self.state.inputs[CROSS_KEEP][:, None, :, None] * value
        base = scaled_dot_product_attention(self.state.base(query), self.state.base(key), taken, scale=attn.scale)
        return base + scaled_dot_product_attention(query, key, kept, scale=attn.scale)


class _ShownCrossAttention(_Processor):
    """Cross attention whose probabilities are put out."""

    def attend(self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scores = (query * attn.scale) @ key.transpose(2, 3)
        own = scores.softmax(-1)
        taken = self.state.base(own) @ self.state.inputs[CROSS_MAP][:, None]
        edited = taken + own * self.state.inputs[CROSS_KEEP][:, None, None]
        self.state.maps.append(edited.mean(1))
        result: torch.Tensor = edited @ value
        return result


def _level_of(name: str, levels: int) -> int | None:
    """Return the level of a processor on the ways down and up, None in the middle."""
    block, _, rest = name.partition(".")
    index = rest.partition(".")[0]
    if block == "down_blocks":
        return int(index)
    return levels - 1 - int(index) if block == "up_blocks" else None

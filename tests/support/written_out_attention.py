"""Prompt-to-Prompt on diffusers' pipeline, with attention probabilities that are written out and changed in place.

This is the method as Hertz et al. 2022 (https://arxiv.org/abs/2208.01626) describe it, and as diffusers' community
pipeline `pipeline_prompt2prompt` does it. Which token belongs to which is not computed here: a test passes it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional


@dataclass
class Edit:
    """One edit of the second prompt, by its tokens.

    Attributes:
        mapper: (tokens, tokens) of "replace": attention of the first prompt @ mapper.
        partners: (tokens,) of "refine": token of the first prompt of each token.
        shared: (tokens,) of "refine": 1 where a token has a partner.
        strengths: (tokens,) of "reweight".
        windows: (steps + 1, tokens), 1 where attention is that of the first prompt.
        self_steps: First step with replaced self attention, and the first one without.
        blend: For each prompt (tokens,), 1 for the words of the local blend; None for none.
        threshold: Of the local blend.
    """

    windows: Any
    mapper: Any = None
    partners: Any = None
    shared: Any = None
    strengths: Any = None
    self_steps: tuple[int, int] = (0, 0)
    blend: Any = None
    threshold: float = 0.3
    step: int = 0
    maps: list[Any] = field(default_factory=list)

    def change(self, base, own):
        """Change cross attention (heads, pixels, tokens) of the second prompt."""
        new = base.clone()
        if self.mapper is not None:
            new = torch.einsum("hpw,wn->hpn", base, torch.as_tensor(self.mapper))
        if self.partners is not None:
            new = torch.where(torch.as_tensor(self.shared).bool(), base[..., torch.as_tensor(self.partners)], own)
        if self.strengths is not None:
            new = new * torch.as_tensor(self.strengths)
        return torch.where(torch.as_tensor(self.windows[self.step]).bool(), new, own)

    def blended(self, latents):
        """Keep the first image where the attention of the words is weak."""
        if self.blend is None:
            return latents
        maps = torch.stack(
            [sum(steps) for steps in zip(*self.maps, strict=True)]
        )  # layer, prompt, heads, pixels, tokens
        words = (maps * torch.as_tensor(self.blend)[:, None, None]).sum(-1).mean((0, 2))
        side = int(words.shape[1] ** 0.5)
        region = functional.max_pool2d(words.view(-1, 1, side, side), 3, stride=1, padding=1)
        region = functional.interpolate(region, size=latents.shape[2:])
        inside = (region / region.amax((2, 3), keepdim=True) > self.threshold).any(0)
        return latents[:1] + inside * (latents - latents[:1])


class _Processor:
    """Attention as diffusers' `AttnProcessor` computes it, with an edit of its probabilities."""

    def __init__(self, edit, *, shown):
        self.edit, self.shown = edit, shown

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        cross = encoder_hidden_states is not None
        context = encoder_hidden_states if cross else hidden_states
        query, key, value = (
            attn.head_to_batch_dim(layer(states))
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        every = attn.get_attention_scores(query, key, attention_mask).unflatten(0, (len(hidden_states), attn.heads))
        base, own = every[-2].clone(), every[-1].clone()
        if cross:
            every[-1] = self.edit.change(base, own)
        elif self.edit.self_steps[0] <= self.edit.step < self.edit.self_steps[1] and base.shape[1] <= 256:
            every[-1] = base
        if self.shown:
            self.edit.maps[-1].append(every[-2:].clone())
        mixed = attn.batch_to_head_dim(every.flatten(0, 1) @ value)
        return attn.to_out[1](attn.to_out[0](mixed))


def edited_steps(pipe, prompts, edit, shown_blocks, **arguments):
    """Run diffusers' pipeline on two prompts; returns the latents after every step.

    Args:
        pipe: diffusers' `StableDiffusionPipeline`.
        prompts: The first prompt, and the edited one.
        edit: The edit.
        shown_blocks: Starts of the names of the blocks that the local blend reads.
        arguments: Of the pipeline.
    """
    plain = dict(pipe.unet.attn_processors)
    pipe.unet.set_attn_processor(
        {
            name: _Processor(edit, shown="attn2" in name and name.startswith(shown_blocks))
            for name in pipe.unet.attn_processors
        }
    )
    found = []
    edit.step, edit.maps = 0, [[]]

    def after(_pipe, _index, _timestep, tensors):
        latents = edit.blended(tensors["latents"])
        found.append(latents.numpy().copy())
        edit.step += 1
        edit.maps.append([])
        return {"latents": latents}

    try:
        with torch.no_grad():
            pipe(prompts, callback_on_step_end=after, output_type="latent", **arguments)
    finally:
        pipe.unet.set_attn_processor(plain)
    return np.stack(found)

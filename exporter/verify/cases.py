"""The inputs on which components are compared with PyTorch, taken from a real run, and what PyTorch makes of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffoundry.exporter.component import Component
from diffoundry.exporter.verify.reference_run import Trace, UnetCall, to_numpy
from diffoundry.runtime.engine import Array

__all__ = ["Case", "decoder_cases", "encoder_cases", "text_cases", "unet_cases"]

_SWEEP_ROWS = 64
"""Rows of the vocabulary sweep: all of a vocabulary of up to 4800 tokens, every tenth of CLIP's 49408."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One set of inputs of one component.

    Attributes:
        component: Name of the component.
        label: What the inputs are, in a word.
        feeds: Input name to array.
        expected: Output name to what PyTorch in fp32 gives.
    """

    component: str
    label: str
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]


def text_cases(pipeline: Any, components: Iterable[Component], prompts: Sequence[str]) -> list[Case]:
    """For every text encoder the prompts with the empty one, and a sweep over the vocabulary: no embedding goes unread.

    The sweep takes every token in a seeded order; of a large vocabulary a seeded sample.
    """
    encoders = [component for component in components if component.source.startswith("text_encoder")]
    return [case for component in encoders for case in _cases_of(pipeline, component, prompts)]


def _cases_of(pipeline: Any, component: Component, prompts: Sequence[str]) -> list[Case]:
    tokenizer = getattr(pipeline, component.source.replace("text_encoder", "tokenizer"))
    encoder = getattr(pipeline, component.source)
    length = tokenizer.model_max_length
    texts = ["", *prompts]
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="np")["input_ids"]
    vocabulary = encoder.config.vocab_size
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    words = np.setdiff1d(np.arange(vocabulary), ends)
    order = np.random.default_rng(0).permutation(words)
    rows = min(_SWEEP_ROWS, -(-len(order) // (length - 2)))
    body = np.resize(order, (rows, length - 2))
    sweep = np.column_stack([np.full(rows, ends[0]), body, np.full(rows, ends[1])])
    return [_text_case(encoder, component, "prompts", ids), _text_case(encoder, component, "vocabulary", sweep)]


def unet_cases(trace: Trace, calls: Sequence[UnetCall], place: float) -> list[Case]:
    """Of the first picture the first, the middle and the last call: much noise, some, and little. Of others one.

    Args:
        trace: The picture.
        calls: All calls that it took.
        place: How many of all pictures were painted before, 0 to 1: the calls taken of them walk through the steps.
    """
    chosen = {0, len(calls) // 2, len(calls) - 1} if place == 0 else {int(place * len(calls))}
    return [_unet_case(trace, calls[index]) for index in sorted(chosen)]


def decoder_cases(pipeline: Any, trace: Trace) -> list[Case]:
    """The latents that a run ended with, in the VAE's own scale."""
    latents = trace.latents[-1] / np.float32(pipeline.vae.config.scaling_factor)
    with torch.inference_mode():
        sample = pipeline.vae.decode(torch.from_numpy(latents)).sample
    feeds, expected = {"latent_sample": latents}, {"sample": to_numpy(sample)}
    return [Case(component="vae_decoder", label=f"latents of {trace.name}", feeds=feeds, expected=expected)]


def encoder_cases(pipeline: Any, trace: Trace) -> list[Case]:
    """The picture that a run ended with."""
    picture = np.ascontiguousarray(trace.picture.transpose(2, 0, 1)[None] * 2 - 1)
    with torch.inference_mode():
        moments = pipeline.vae.encode(torch.from_numpy(picture)).latent_dist.parameters
    feeds, expected = {"sample": picture}, {"latent_parameters": to_numpy(moments)}
    return [Case(component="vae_encoder", label=trace.name, feeds=feeds, expected=expected)]


def _text_case(encoder: Any, component: Component, label: str, ids: Array) -> Case:
    with torch.inference_mode():
        output = encoder(torch.from_numpy(ids.astype(np.int64)), output_hidden_states=True)
    return Case(
        component=component.name,
        label=label,
        feeds={"input_ids": ids.astype(np.int32)},
        expected={spec.name: to_numpy(_output(output, spec.name)) for spec in component.outputs},
    )


def _output(given: Any, name: str) -> torch.Tensor:
    """An output of transformers' model by its name in the graph, such as "hidden_states.2"."""
    field, _, layer = name.partition(".")
    tensor: torch.Tensor = given[field][int(layer)] if layer else given[field]
    return tensor


def _unet_case(trace: Trace, call: UnetCall) -> Case:
    return Case(
        component="unet",
        label=f"{trace.name}, t={call.timestep:g}",
        feeds={
            "sample": call.sample,
            "timestep": np.asarray([call.timestep], dtype=np.float32),
            **call.conditions,
        },
        expected={"out_sample": call.output},
    )

"""Inputs for comparing components with PyTorch, recorded from a real run, and PyTorch's outputs for them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from diffoundry.exporter.component import Component, fixed_size
from diffoundry.exporter.components.attention_control_module import AttentionControlModule
from diffoundry.exporter.components.causal_lm_text_module import without_last_norm
from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.exporter.reference.networks import network, tokenizer_of
from diffoundry.exporter.verify.reference.pipeline_trace import NetworkCall, Trace, to_numpy
from diffoundry.runtime.bundle.dims import parse_size, size_of
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.models.attention_control import (
    BASE_ROWS,
    CROSS_KEEP,
    CROSS_MAP,
    SELF_LIMIT,
    is_attention_control,
    neutral_feeds,
)
from diffoundry.runtime.models.controlnet import is_residual
from diffoundry.runtime.models.roles import DEPTH_ESTIMATOR, IMAGE_ENCODER, TEXT_ENCODER, tokenizer_folder
from diffoundry.runtime.models.t2i_adapter import is_feature

__all__ = [
    "ComponentCase",
    "adapter_case",
    "control_cases",
    "denoiser_cases",
    "edited_cases",
    "image_cases",
    "random_case",
    "text_cases",
]

_IMAGE_READERS = ((IMAGE_ENCODER, "image_encoder"), (DEPTH_ESTIMATOR, "depth_estimator"))
"""Role and folder of networks that read the image of a call."""

_SWEEP_ROWS = 64
"""Rows of the vocabulary sweep: all of a vocabulary of up to 4800 tokens, every tenth of CLIP's 49408."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentCase:
    """One set of inputs of one component.

    Attributes:
        component: Name of the component.
        label: Short description of the inputs.
        feeds: Input name to array.
        expected: Output name to PyTorch's result in fp32.
    """

    component: str
    label: str
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]


def text_cases(pipeline: Any, components: Iterable[Component], prompts: Sequence[str]) -> list[ComponentCase]:
    """Make cases for every text encoder: the prompts with the empty one, and a sweep over the vocabulary.

    The sweep uses every token in a seeded order; of a large vocabulary a seeded sample.
    """
    encoders = [component for component in components if component.role == TEXT_ENCODER]
    return [case for component in encoders for case in _cases_of(pipeline, component, prompts)]


def _cases_of(pipeline: Any, component: Component, prompts: Sequence[str]) -> list[ComponentCase]:
    tokenizer = tokenizer_of(pipeline, tokenizer_folder(component.source))
    encoder = getattr(pipeline, component.source)
    length = component.usual.get("sequence", tokenizer.model_max_length)
    texts = ["", *prompts]
    causal = any(spec.name == "rotary_cos" for spec in component.inputs)
    side = {"padding_side": "right"} if causal else {}
    tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="np", **side)
    vocabulary = encoder.config.get_text_config().vocab_size
    starts, ends = (
        [token for token in (first if second is None else second,) if token is not None]
        for first, second in (
            (tokenizer.cls_token_id, tokenizer.bos_token_id),  # T5 has neither
            (tokenizer.sep_token_id, tokenizer.eos_token_id),
        )
    )
    room = length - len(starts) - len(ends)
    words = np.setdiff1d(np.arange(vocabulary), (*starts, *ends))
    order = np.random.default_rng(0).permutation(words)
    rows = min(_SWEEP_ROWS, -(-len(order) // room))
    body = np.resize(order, (rows, room))
    sweep = np.column_stack(
        [*(np.full(rows, token) for token in starts), body, *(np.full(rows, token) for token in ends)]
    )
    masks = tokens["attention_mask"], sweep != tokenizer.pad_token_id
    if causal:  # a first token without a mask sees nothing, and pipelines never have one
        for mask in masks:
            mask[:, 0] = 1
    return [
        _text_case(encoder, component, "prompts", tokens["input_ids"], masks[0]),
        _text_case(encoder, component, "vocabulary", sweep, masks[1]),
    ]


def image_cases(pipeline: Any, components: Iterable[Component], images: Sequence[Image]) -> list[ComponentCase]:
    """Make a case for an image encoder or a depth estimator of the loop: images as transformers prepares them."""
    component = next((one for one in components if (one.role, one.source) in _IMAGE_READERS), None)
    if component is None or getattr(pipeline, "feature_extractor", None) is None:
        return []
    pixels = pipeline.feature_extractor(list(images), return_tensors="pt").pixel_values
    reader = getattr(pipeline, component.source)
    with torch.inference_mode():
        output = reader(pixels, output_hidden_states=True)
    return [
        ComponentCase(
            component=component.name,
            label=f"{len(images)} images",
            feeds={"pixel_values": to_numpy(pixels)},
            expected={spec.name: to_numpy(_output(reader, output, spec.name)) for spec in component.outputs},
        )
    ]


def denoiser_cases(
    component: Component, trace: Trace, calls: Sequence[NetworkCall], place: float
) -> list[ComponentCase]:
    """Select calls as cases: for the first image the first, the middle and the last call, for others one.

    Args:
        component: The denoiser.
        trace: The image.
        calls: All calls for the image.
        place: Fraction of all images generated before, 0 to 1: the selected calls move through the steps.
    """
    return [_denoiser_case(component, trace, calls[index]) for index in _chosen(len(calls), place)]


def edited_cases(
    pipeline: Any, component: Component, trace: Trace, calls: Sequence[NetworkCall]
) -> list[ComponentCase]:
    """Make a case of a denoiser with edited attention: the middle call with seeded edits of its second row.

    The expected outputs are those of PyTorch with the attention processors that the export traces. Without attention
    control there is no case.

    Args:
        pipeline: diffusers' pipeline.
        component: The denoiser.
        trace: The image.
        calls: All calls for the image.
    """
    if not is_attention_control([spec.name for spec in component.inputs]):
        return []
    unet = network(pipeline, component.source)
    processors = dict(unet.attn_processors)
    case = _denoiser_case(component, trace, calls[len(calls) // 2])
    random = np.random.default_rng(0)
    rows, tokens = case.feeds[CROSS_KEEP].shape
    feeds = {
        **case.feeds,
        CROSS_MAP: random.dirichlet(np.ones(tokens), (rows, tokens)).astype(np.float32),
        CROSS_KEEP: random.random((rows, tokens)).astype(np.float32),
        BASE_ROWS: np.zeros(rows, np.int32),
        SELF_LIMIT: np.full(1, 256, np.int32),
    }
    try:
        expected = _module_outputs(AttentionControlModule(unet, component), component, feeds)
    finally:
        unet.set_attn_processor(processors)
    return [ComponentCase(component=component.name, label="edited attention", feeds=feeds, expected=expected)]


def control_cases(
    pipeline: Any, component: Component, trace: Trace, calls: Sequence[NetworkCall], place: float
) -> list[ComponentCase]:
    """Make cases of a ControlNet for the calls that `denoiser_cases` selects.

    Args:
        pipeline: diffusers' pipeline.
        component: The ControlNet.
        trace: The image.
        calls: All calls for the image.
        place: As in `denoiser_cases`.
    """
    module = resolve(component.wrapper)(network(pipeline, component.source), component)
    return [_control_case(module, component, trace, calls[index]) for index in _chosen(len(calls), place)]


def adapter_case(component: Component, trace: Trace, call: NetworkCall) -> ComponentCase:
    """Make the case of a T2I-Adapter, which runs once an image."""
    return ComponentCase(component=component.name, label=trace.name, feeds=call.feeds, expected=call.outputs)


def _chosen(calls: int, place: float) -> list[int]:
    return sorted({0, calls // 2, calls - 1} if place == 0 else {int(place * calls)})


def random_case(pipeline: Any, component: Component, height: int, width: int) -> ComponentCase:
    """Make a case of seeded random inputs, for a component that no recorded call covers. Its timestep is 1.

    Args:
        pipeline: diffusers' pipeline.
        component: Any component.
        height: Pixels of the images.
        width: Pixels of the images.
    """
    known = {**component.example, **component.usual, "batch": 1, "height": height, "width": width}
    generator = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for spec in component.inputs:
        shape = tuple(_size_of(dim, known) for dim in spec.shape)
        numbers = (
            generator.standard_normal(shape) if spec.dtype.startswith("float") else generator.integers(0, 2, shape)
        )
        feeds[spec.name] = np.asarray(np.ones(shape) if spec.name == "timestep" else numbers, spec.dtype)
    module = resolve(component.wrapper)(network(pipeline, component.source), component)
    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(array) for array in feeds.values()))
    expected = {spec.name: to_numpy(output) for spec, output in zip(component.outputs, outputs, strict=True)}
    return ComponentCase(component=component.name, label="random numbers", feeds=feeds, expected=expected)


def _size_of(dim: int | str, known: Mapping[str, int]) -> int:
    """Return the size of a dimension: of the image where it follows from it, otherwise as in the example."""
    size = fixed_size(dim, known)
    return known[str(dim)] if size is None else size


def _text_case(encoder: Any, component: Component, label: str, ids: Array, mask: Array) -> ComponentCase:
    tokens = torch.from_numpy(ids.astype(np.int64))
    if any(spec.name == "attention_mask" for spec in component.inputs):
        return _masked_case(encoder, component, label, tokens, torch.from_numpy(mask.astype(np.int64)))
    with torch.inference_mode():
        output = encoder(tokens, output_hidden_states=True)
    return ComponentCase(
        component=component.name,
        label=label,
        feeds={"input_ids": ids.astype(np.int32)},
        expected={spec.name: to_numpy(_output(encoder, output, spec.name)) for spec in component.outputs},
    )


def _masked_case(
    encoder: Any, component: Component, label: str, tokens: torch.Tensor, mask: torch.Tensor
) -> ComponentCase:
    """Make the case of an encoder that takes a mask of the padding. diffusers' own return outputs in our order."""
    names = [spec.name for spec in component.outputs]
    layers = {"output_hidden_states": True} if any(name.startswith("hidden_states.") for name in names) else {}
    passed = {"input_ids": tokens, "attention_mask": mask}
    wrapper = resolve(component.wrapper)
    computed = wrapper.computed_inputs(encoder, passed) if issubclass(wrapper, NetworkModule) else {}
    with torch.inference_mode(), without_last_norm(encoder, wrapper):
        given = encoder(**passed, **layers)
    outputs = [_output(encoder, given, name) for name in names] if hasattr(given, "to_tuple") else given
    return ComponentCase(
        component=component.name,
        label=label,
        feeds={
            "input_ids": tokens.numpy().astype(np.int32),
            "attention_mask": mask.numpy().astype(np.float32),
            **{name: to_numpy(tensor) for name, tensor in computed.items()},
        },
        expected={name: to_numpy(output) for name, output in zip(names, outputs, strict=True)},
    )


def _output(encoder: Any, given: Any, name: str) -> torch.Tensor:
    """Find an output of transformers' model by its name in the graph, such as "hidden_states.2"."""
    if name == "normalized_hidden_states":  # as diffusers' `encode_prompt` makes them for `clip_skip`
        inner = getattr(encoder, "text_model", encoder)
        with torch.inference_mode():
            normalized: torch.Tensor = inner.final_layer_norm(torch.stack(given["hidden_states"][:-1], dim=1))
        return normalized
    field, _, layer = name.partition(".")
    tensor: torch.Tensor = given[field][int(layer)] if layer else given[field]
    return tensor


def _denoiser_case(component: Component, trace: Trace, call: NetworkCall) -> ComponentCase:
    latents = component.inputs[0]
    known = {
        parse_size(str(dim)): size for dim, size in zip(latents.shape, call.feeds[latents.name].shape, strict=True)
    }
    sizes = {dim.symbol: size * dim.divisor for dim, size in known.items()}
    if "encoder_hidden_states" in call.feeds:
        sizes["sequence"] = call.feeds["encoder_hidden_states"].shape[1]
    whole = {spec.name: tuple(size_of(dim, sizes) or 0 for dim in spec.shape) for spec in component.inputs}
    neutral: Mapping[str, Array] = {}
    if is_attention_control([spec.name for spec in component.inputs]):
        neutral = neutral_feeds(*call.feeds["encoder_hidden_states"].shape[:2])
    return ComponentCase(
        component=component.name,
        label=f"{trace.name}, t={call.timestep:g}",
        # Residuals of one pixel, without positions, are added everywhere. Features of T2I-Adapters end early.
        feeds={
            **neutral,
            **{name: np.zeros(shape, np.float32) for name, shape in whole.items() if is_feature(name)},
            **{
                name: np.array(np.broadcast_to(array, whole[name])) if is_residual(name) else array
                for name, array in call.feeds.items()
            },
        },
        expected=call.outputs,
    )


def _control_case(module: NetworkModule, component: Component, trace: Trace, call: NetworkCall) -> ComponentCase:
    """Make a case of a ControlNet's outputs before they are scaled."""
    return ComponentCase(
        component=component.name,
        label=f"{trace.name}, t={call.timestep:g}",
        feeds=call.feeds,
        expected=_module_outputs(module, component, call.feeds),
    )


def _module_outputs(module: torch.nn.Module, component: Component, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run the module that the export traces."""
    with torch.inference_mode():
        tensors = module(*(torch.from_numpy(feeds[spec.name]) for spec in component.inputs))
    names = (spec.name for spec in component.outputs)
    return {name: to_numpy(tensor) for name, tensor in zip(names, tensors, strict=True)}

"""Declarations of components and families: interfaces of a checkpoint's networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffoundry.runtime.bundle.dims import parse_size, size_of
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.formats.config_values import integer, integers, refuse

__all__ = [
    "Call",
    "Component",
    "ComponentKind",
    "Config",
    "Configs",
    "FamilyDeclaration",
    "fixed_size",
    "read_integer",
    "read_levels",
    "read_object",
]

Config = Mapping[str, Any]
"""A component's config.json."""

Configs = Mapping[str, Config]
"""Folder of the checkpoint to its config.json. A component may look at its neighbours: the VAE sets the latent size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Arguments and results of a network while it is traced.

    Attributes:
        keywords: Input of the graph to its keyword in the network's `forward`, where the two differ. "group.name" is an
            entry of a dictionary that `forward` takes as `group`, "group.0" an entry of a tuple.
        results: Output of the graph to its place in what `forward` returns, where the two differ: names of attributes
            or keys, and numbers of entries, joined by dots.
        options: Further keyword arguments, the same at every call.
        layers: Attributes of the network that run one after another, each on the result of the one before, and no
            `forward` of the network. One that is None or absent is skipped.
    """

    keywords: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One network of one checkpoint, as it is traced.

    Attributes:
        name: Its folder in the bundle, as in Optimum's exports.
        role: One of `runtime.models.roles.ROLES`, for the manifest.
        network: Its class in diffusers or transformers, for the manifest.
        source: Its folder in the checkpoint; two components may come from one (both halves of a VAE).
        inputs: Inputs of the graph.
        outputs: Outputs of the graph.
        example: Size of each symbolic dimension of the inputs while tracing; one that rounds up follows from others.
        call: Arguments and results of the network.
        sizes: "height" and "width" to the sizes that the network takes, where it takes fewer than the shapes say.
        usual: Symbolic dimension to its size unless a user asks for another, where it is not 77 tokens; engines for one
            size alone are made for this.
        tables: Names of weights of the network that the runtime reads itself, such as the codebook of a quantizer. They
            lie in fp32 beside the graph.
        wrapper: "module:class" of the torch module that is traced, made as `class(network, component)`. Its forward
            takes tensors in the order of `inputs` and returns a tuple of tensors in the order of `outputs`.
    """

    name: str
    role: str
    network: str
    source: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: Mapping[str, int]
    call: Call = field(default_factory=Call)
    sizes: Mapping[str, DimSpec] = field(default_factory=dict)
    usual: Mapping[str, int] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    wrapper: str = "diffoundry.exporter.components.network_module:NetworkModule"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentKind:
    """A component as a family declares it, before there is a checkpoint.

    Attributes:
        name: As in `Component`.
        source: As in `Component`.
        classes: "library:class" of every supported module, by the names of model_index.json; nothing else is loaded.
        describe: Makes the component for a checkpoint's configs.
        optional: True if a checkpoint may lack it, with `[null, null]` in model_index.json.
        folder: Folder of the checkpoint that belongs to it: the tokenizer of a text encoder, the feature extractor of
            an image encoder; None for none.
        chat: Arguments for the chat template of that tokenizer, which a bundle holds rendered; None without a chat.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    describe: Callable[[Configs], Component]
    optional: bool = False
    folder: str | None = None
    chat: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyDeclaration:
    """Components of a pipeline, and further folders of the checkpoint for the bundle.

    Attributes:
        name: Name in the manifest; the runtime finds the pipeline by it.
        components: In the order of export.
        folders: Folders of the checkpoint that a bundle copies unchanged.
        weight_folders: Folders of parts without a graph, whose config and weights a bundle copies unchanged; a
            checkpoint may lack them.
        controlnet: Declares the ControlNet of a name. None for `ControlNetModel`, that of UNets.
        controlnet_components: Networks that only a checkpoint with a ControlNet needs.
    """

    name: str
    components: tuple[ComponentKind, ...]
    folders: tuple[str, ...] = ("scheduler", "tokenizer")
    weight_folders: tuple[str, ...] = ()
    controlnet: Callable[[str], ComponentKind] | None = None
    controlnet_components: tuple[ComponentKind, ...] = ()


def read_integer(configs: Configs, source: str, key: str, default: int | None) -> int:
    """Read a number that a network's interface depends on.

    Args:
        configs: Configs of the checkpoint.
        source: Folder of the network.
        key: Name of the field.
        default: Value of a missing field, that of diffusers or transformers; None where a checkpoint must name it.

    Raises:
        CheckpointError: It is missing and has no default.
        ConfigError: It is no whole number, or out of range.
    """
    config, subject = configs[source], f"{source}/config.json"
    if key not in config and default is None:
        raise CheckpointError(
            f"{subject}: field {key!r} is missing, expected a whole number; the config is damaged or of a kind that is "
            f"not supported"
        )
    return integer(config, key, 0 if default is None else default, subject=subject)


def read_levels(configs: Configs, source: str, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Read a list with a number for each level of a network; arguments as `read_integer`.

    Raises:
        ConfigError: It is no list of at least one whole number in range.
    """
    return integers(configs[source], key, default, subject=f"{source}/config.json")


def read_object(configs: Configs, source: str, key: str) -> Config:
    """Read the config of a part of a network; empty where it is missing.

    Raises:
        ConfigError: It is no object.
    """
    value = configs[source].get(key, {})
    if not isinstance(value, dict):
        raise refuse(f"{source}/config.json", key, value, "an object")
    return value


def fixed_size(dim: int | str, fixed: Mapping[str, int]) -> int | None:
    """Compute the size of a dimension, or None when it stays free.

    Args:
        dim: A number, or a symbolic size such as "batch", "height/8" or "(height+15)//16".
        fixed: Symbol ("batch", "height", "width", "sequence") to its size.

    Raises:
        InputError: The size does not divide: "height/8" with a height of 500.
    """
    if isinstance(dim, int):
        return dim
    symbol, divisor, _ = parse_size(dim)
    if symbol not in fixed:
        return None
    size = size_of(dim, fixed)
    if size is None:
        raise InputError(f"{symbol}: got {fixed[symbol]}, expected a multiple of {divisor} for this checkpoint")
    return size

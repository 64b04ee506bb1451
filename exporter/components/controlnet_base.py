"""Base of the declarations of ControlNets: what they have in common with their denoiser, and with each other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.controlnet import is_controlnet
from diffoundry.runtime.models.roles import CONTROLNET

__all__ = [
    "common_number",
    "controlnet_component",
    "declare_controlnet",
    "only_controlnet",
    "refuse_differences",
    "refuse_other",
    "residuals_of_blocks",
]


def declare_controlnet(name: str, network: str, describe: Callable[[str, Configs], Component]) -> ComponentKind:
    """Declare the ControlNet of this name; diffusers saves several as "controlnet", "controlnet_1" ...

    Args:
        name: As said.
        network: Class of diffusers.
        describe: (name, configs) -> the component.
    """
    return ComponentKind(name=name, source=name, classes=(f"diffusers:{network}",), describe=partial(describe, name))


def controlnet_component(
    name: str,
    network: str,
    outputs: tuple[TensorSpec, ...],
    *,
    keywords: Mapping[str, str] | None = None,
    **others: Any,
) -> Component:
    """Describe a ControlNet whose module returns a tuple with its residuals.

    Args:
        name: Of the ControlNet.
        network: Class of diffusers.
        outputs: The residuals.
        keywords: As in `Call`.
        **others: Further fields of `Component`.
    """
    results = {spec.name: str(index) for index, spec in enumerate(outputs)}
    call = Call(keywords=keywords or {}, results=results)
    return Component(name=name, role=CONTROLNET, network=network, source=name, outputs=outputs, call=call, **others)


def only_controlnet(configs: Configs, family: str) -> str | None:
    """Return the name of the ControlNet of a checkpoint whose pipelines run one alone; None without any.

    Args:
        configs: Of the checkpoint.
        family: For the message, such as "Z-Image".

    Raises:
        ConfigError: There are several.
    """
    names = [name for name in configs if is_controlnet(name)]
    if len(names) > 1:
        raise ConfigError(
            f"--controlnet: got {len(names)} ControlNets of {family}, expected one: diffusers runs no more; export a "
            f"bundle for each"
        )
    return names[0] if names else None


def refuse_differences(name: str, fields: Iterable[tuple[str, object, object, str]]) -> None:
    """Check that a ControlNet matches its transformer and its VAE.

    Args:
        name: Of the ControlNet.
        fields: Field of its config, its value, the value that fits, and the clause before that value in the message.

    Raises:
        ConfigError: As said.
    """
    for field, found, expected, owner in fields:
        if found != expected:
            raise refuse_other(name, field, found, f"{owner} {expected}")


def refuse_other(name: str, field: str, found: object, owner: str) -> ConfigError:
    """Return the error for a ControlNet whose config does not fit its denoiser.

    Args:
        name: Of the ControlNet.
        field: Of its config.
        found: Its value there.
        owner: A clause with the value that fits, such as "the UNet has 320".
    """
    return ConfigError(
        f"{name}/config.json: field {field!r}: got {found}, but {owner}; this ControlNet was made for another kind of "
        f"checkpoint"
    )


def common_number(configs: Configs, field: str, default: int, unit: str) -> int:
    """Return a number that all ControlNets of a checkpoint have in common; 0 without any.

    Args:
        configs: Of the checkpoint.
        field: Of the configs.
        default: Of diffusers.
        unit: Noun for the message, such as "blocks".

    Raises:
        ConfigError: They differ, so that their residuals cannot be added.
    """
    counts = {
        name: integer(configs[name], field, default, subject=f"{name}/config.json", minimum=0)
        for name in configs
        if is_controlnet(name)
    }
    first = next(iter(counts), "")
    for name, count in counts.items():
        if count != counts[first]:
            raise ConfigError(
                f"{name}/config.json: field {field!r}: got {count}, but {first} has {counts[first]}; only residuals of "
                f"as many {unit} can be added; export a bundle for each"
            )
    return counts.get(first, 0)


def residuals_of_blocks(
    name: Callable[[int], str], count: int, sides: Sequence[str], channels: int
) -> tuple[TensorSpec, ...]:
    """Describe the residuals of a transformer's blocks, float32 (batch, rows, columns, channels).

    Args:
        name: Number of a residual to its name.
        count: Of residuals.
        sides: Rows and columns of the tokens.
        channels: Of the transformer's features.
    """
    shape: tuple[int | str, ...] = ("batch", *sides, channels)
    return tuple(TensorSpec(name=name(index), dtype="float32", shape=shape) for index in range(count))

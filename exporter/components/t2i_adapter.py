"""T2IAdapter: a control image to features for the denoiser.

Mou et al. 2023, https://arxiv.org/abs/2302.08453.
"""

from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.adapter_features import Feature, adapter_features, denoiser_features
from diffoundry.runtime.bundle.dims import Size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.roles import T2I_ADAPTER
from diffoundry.runtime.models.t2i_adapter import feature_name

__all__ = ["T2I_ADAPTER_CLASS", "t2i_adapter"]

T2I_ADAPTER_CLASS = ("diffusers", "T2IAdapter")

_IMAGE_CHANNELS = (1, 3)
"""Grey, or red, green and blue."""


def t2i_adapter(name: str) -> ComponentKind:
    """Declare the T2I-Adapter of this name; diffusers saves several as "adapter", "adapter_1" ..."""
    return ComponentKind(
        name=name, source=name, classes=(":".join(T2I_ADAPTER_CLASS),), describe=partial(_describe, name)
    )


def _describe(name: str, configs: Configs) -> Component:
    features = adapter_features(configs, name)
    _check(name, features, configs)
    factor = read_integer(configs, name, "downscale_factor", 8)
    return Component(
        name=name,
        role=T2I_ADAPTER,
        network=T2I_ADAPTER_CLASS[1],
        source=name,
        inputs=(
            TensorSpec(
                name="image",
                dtype="float32",
                shape=("batch", read_integer(configs, name, "in_channels", 3), "height", "width"),
            ),
        ),
        outputs=tuple(
            TensorSpec(name=feature_name(index), dtype="float32", shape=("batch", width, *_sides(step, factor)))
            for index, (width, step) in enumerate(features)
        ),
        example={"batch": 2, "height": 9 * factor, "width": 11 * factor},
        call=Call(keywords={"image": "x"}, results={feature_name(index): str(index) for index in range(len(features))}),
        sizes={side: DimSpec(multiple_of=factor) for side in ("height", "width")},
        wrapper="diffoundry.exporter.components.t2i_adapter_module:T2IAdapterModule",
    )


def _sides(step: int, factor: int) -> tuple[str, str]:
    """Height and width of a feature; they come out whole at the adapter's own factor."""
    height, width = (str(Size(side, step, up=step > factor)) for side in ("height", "width"))
    return height, width


def _check(name: str, features: tuple[Feature, ...], configs: Configs) -> None:
    """Check that a pipeline can feed the adapter, and that the denoiser has a place for every feature.

    Raises:
        ConfigError: The adapter was made for another kind of checkpoint.
    """
    channels = read_integer(configs, name, "in_channels", 3)
    if channels not in _IMAGE_CHANNELS:
        raise refuse(f"{name}/config.json", "in_channels", channels, "3 for RGB or 1 for grey")
    places = denoiser_features(configs)
    for index, feature in enumerate(features):
        place = places[index] if index < len(places) else None
        if feature != place:
            expected = (
                f"{place.channels} channels at {place.factor} pixels" if place else f"at most {len(places)} features"
            )
            raise ConfigError(
                f"{name}/config.json: feature {index} of the T2I-Adapter: got {feature.channels} channels at "
                f"{feature.factor} pixels, but the UNet takes {expected}; this adapter was made for another kind of "
                f"checkpoint"
            )

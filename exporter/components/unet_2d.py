"""UNet2DModel: noisy pixels or latents, a timestep and possibly a class label to the scheduler's prediction type.

Ho et al. 2020, https://arxiv.org/abs/2006.11239. Song et al. 2020, https://arxiv.org/abs/2011.13456.
"""

from collections.abc import Callable

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer, read_levels
from diffoundry.exporter.components.class_labels import class_labels_input
from diffoundry.exporter.components.latents import latent_dims, trained_size
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["unet_2d"]

_CLASS = "UNet2DModel"

_CHANNELS = (224, 448, 672, 896)
"""Default of diffusers for `block_out_channels`."""

_TIME_EMBEDDINGS = ("positional", "fourier", "learned")


def unet_2d(
    name: str = "unet",
    *,
    role: str = DENOISER,
    dims: Callable[[Configs], tuple[str, str]] = latent_dims,
    optional: bool = False,
) -> ComponentKind:
    """Declare a UNet without cross attention.

    Args:
        name: Folder in the checkpoint and in the bundle: "unet", "super_res_first" ...
        role: One of `runtime.models.roles.ROLES`.
        dims: Returns height and width of its input as symbols of the image's, from the checkpoint's configs.
        optional: True if a checkpoint may lack it.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"diffusers:{_CLASS}",),
        describe=lambda configs: _describe(configs, name, role, dims(configs)),
        optional=optional,
    )


def _describe(configs: Configs, name: str, role: str, dims: tuple[str, str]) -> Component:
    height, width = dims
    factor = parse_size(height).divisor
    # Skip connections fit only where every level divides by two: this class has no branch for other sizes.
    steps = 2 ** (len(read_levels(configs, name, "block_out_channels", _CHANNELS)) - 1)
    sides = DimSpec(multiple_of=steps * factor)
    return Component(
        name=name,
        role=role,
        network=_CLASS,
        source=name,
        inputs=(
            TensorSpec(
                name="sample",
                dtype="float32",
                shape=("batch", read_integer(configs, name, "in_channels", 3), height, width),
            ),
            TensorSpec(name="timestep", dtype=_timestep_type(configs, name), shape=(1,)),
            *class_labels_input(configs, name, _CHANNELS, projections=False),
        ),
        outputs=(
            TensorSpec(
                name="out_sample",
                dtype="float32",
                shape=("batch", read_integer(configs, name, "out_channels", 3), height, width),
            ),
        ),
        example={
            "batch": 2, height: 3 * steps, width: 5 * steps, "height": 3 * steps * factor, "width": 5 * steps * factor
        },
        call=Call(results={"out_sample": "sample"}),
        sizes={"height": sides, "width": sides},
        usual=trained_size(configs, name, dims),
        wrapper="diffoundry.exporter.components.unet_module:UNetModule",
    )  # fmt: skip


def _timestep_type(configs: Configs, name: str) -> str:
    """Return float32, since samplers on sigmas use timesteps between the integers; int32 of a learned table's rows."""
    kind = configs[name].get("time_embedding_type", "positional")
    if kind not in _TIME_EMBEDDINGS:
        raise refuse(f"{name}/config.json", "time_embedding_type", kind, "'positional', 'fourier' or 'learned'")
    return "int32" if kind == "learned" else "float32"

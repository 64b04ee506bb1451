"""SD3Transformer2DModel: noisy latents, a timestep and prompts to the velocity for a flow matching scheduler.

Esser et al. 2024, https://arxiv.org/abs/2403.03206.
"""

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.exporter.components.sd3_controlnet import block_residuals, prompt_rows
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import MAX_SIDE
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.sd3_transformer_2d import SKIP_LAYERS

__all__ = ["sd3_transformer"]

_CLASS = "SD3Transformer2DModel"
_SOURCE = "transformer"


def sd3_transformer(tokens: int) -> ComponentKind:
    """Declare the denoiser of Stable Diffusion 3.

    Args:
        tokens: Rows of T5 by default, which follow those of CLIP.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=(f"diffusers:{_CLASS}",),
        describe=lambda configs: _describe(configs, tokens),
    )


def _describe(configs: Configs, tokens: int) -> Component:
    height, width = latent_dims(configs)
    factor = parse_size(height).divisor
    channels, latent = _channels(configs)
    patch = read_integer(configs, _SOURCE, "patch_size", 2)
    # Latents are cut into patches, whose positions are cropped from a table.
    sides = DimSpec(max=_positions(configs) * patch * factor, multiple_of=patch * factor)
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", channels, height, width)),
            # Also between the integers, as shifted schedules have them.
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(
                name="encoder_hidden_states",
                dtype="float32",
                shape=("batch", "sequence", read_integer(configs, _SOURCE, "joint_attention_dim", 4096)),
            ),
            TensorSpec(name="pooled_projections", dtype="float32", shape=("batch", _pooled_width(configs))),
            TensorSpec(
                name=SKIP_LAYERS, dtype="float32", shape=("batch", read_integer(configs, _SOURCE, "num_layers", 18))
            ),
            *block_residuals(configs),
        ),
        outputs=(
            TensorSpec(name="out_hidden_states", dtype="float32", shape=("batch", latent, height, width)),
        ),
        example={
            "batch": 2, "sequence": 7, height: 5 * patch, width: 7 * patch,
            "height": 5 * patch * factor, "width": 7 * patch * factor,
        },
        call=Call(results={"out_hidden_states": "sample"}),
        sizes={"height": sides, "width": sides},
        usual={"sequence": prompt_rows(configs, tokens)},
        wrapper="diffoundry.exporter.components.sd3_transformer_module:SD3TransformerModule",
    )  # fmt: skip


def _channels(configs: Configs) -> tuple[int, int]:
    """Read the channels of the input, and those of the latents, which the network returns.

    Raises:
        ConfigError: It takes other channels than latents, or latents, mask and kept part, or returns others.
    """
    channels = read_integer(configs, _SOURCE, "in_channels", 16)
    latent = read_integer(configs, "vae", "latent_channels", 4)
    given = configs[_SOURCE].get("out_channels", 16) or channels
    if channels not in (latent, 2 * latent + 1) or given != latent:
        raise ConfigError(
            f"{_SOURCE}/config.json: fields 'in_channels' and 'out_channels': got {channels} and {given}, expected "
            f"{latent} for both, the latent_channels of the VAE, or {2 * latent + 1} and {latent} for inpainting"
        )
    return channels, latent


def _pooled_width(configs: Configs) -> int:
    """Width of the concatenated pooled prompts.

    Raises:
        ConfigError: The text encoders give another width.
    """
    width = read_integer(configs, _SOURCE, "pooled_projection_dim", 2048)
    given = sum(read_integer(configs, name, "projection_dim", 512) for name in ("text_encoder", "text_encoder_2"))
    if width != given:
        raise ConfigError(
            f"{_SOURCE}/config.json: field 'pooled_projection_dim': got {width}, expected {given}, the projection_dim "
            f"of both CLIP text encoders together"
        )
    return width


def _positions(configs: Configs) -> int:
    """Number of patches per side in the table of positions.

    Raises:
        ConfigError: There is no table to crop from.
    """
    positions = configs[_SOURCE].get("pos_embed_max_size", 96)
    if type(positions) is not int or not 1 <= positions <= MAX_SIDE:
        raise ConfigError(
            f"{_SOURCE}/config.json: field 'pos_embed_max_size': got {positions!r}, expected a number such as 192; "
            f"other position embeddings are not supported"
        )
    return positions

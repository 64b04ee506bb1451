"""Inputs of UNet2DConditionModel beside sample and timestep, as its config names them."""

from collections.abc import Collection

from diffoundry.exporter.component import Configs, read_integer, read_levels
from diffoundry.exporter.components.class_labels import class_labels_input
from diffoundry.exporter.components.residuals import UNET_CHANNELS
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import flag, integer, refuse

__all__ = ["ADDED_KEYWORDS", "condition_inputs", "condition_width", "size_inputs"]

ADDED_KEYWORDS = {
    name: f"added_cond_kwargs.{name}" for name in ("text_embeds", "time_ids", "image_embeds", "hint")
}  # fmt: skip
"""Inputs that diffusers' UNet and ControlNet take in one dictionary, to their keywords."""

_FED = ("encoder_hidden_states", "timestep_cond", "text_embeds", "time_ids")
"""Inputs that every pipeline with a text encoder feeds, where a network has them."""

_PROJECTIONS = ("text_proj", "text_image_proj", "image_proj")
_ADDITIONS = ("text", "text_image", "text_time", "image", "image_hint")


def condition_inputs(configs: Configs, source: str, *, feeds: Collection[str], mask: bool) -> tuple[TensorSpec, ...]:
    """Describe every input of a UNet but the sample and the timestep.

    Args:
        configs: Configs of the checkpoint.
        source: Folder of the UNet.
        feeds: Inputs that its pipeline feeds, beside text and sizes.
        mask: True if its pipeline feeds a mask of the text's tokens.

    Raises:
        ConfigError: The UNet has an input that its pipeline does not feed, or a field is damaged.
        CheckpointError: A field that says how wide an input is, is missing.
    """
    labels = "num_class_embeds" if configs[source].get("class_embed_type") is None else "class_embed_type"
    parts = {
        "encoder_hid_dim_type": _states(configs, source, mask=mask),
        "time_cond_proj_dim": _guidance(configs, source),
        labels: class_labels_input(configs, source, UNET_CHANNELS, projections=True, fourier=2),
        "addition_embed_type": _addition(configs, source),
    }
    found: dict[str, TensorSpec] = {}
    for field, specs in parts.items():
        for spec in specs:
            if spec.name not in (*_FED, "attention_mask", *feeds):
                raise ConfigError(
                    f"{source}/config.json: field {field!r}: got {configs[source][field]!r}, expected null: the "
                    f"pipeline of this checkpoint has no {spec.name} for it"
                )
            if found.setdefault(spec.name, spec) != spec:
                raise ConfigError(
                    f"{source}/config.json: fields 'encoder_hid_dim_type' and 'addition_embed_type': got two widths "
                    f"of {spec.name}, {found[spec.name].shape[1]} and {spec.shape[1]}, expected one"
                )
    return tuple(found.values())


def _states(configs: Configs, source: str, *, mask: bool) -> tuple[TensorSpec, ...]:
    """Describe hidden states of a text, or the embedding of an image that takes their role."""
    config, subject = configs[source], f"{source}/config.json"
    width = integer(config, "encoder_hid_dim", None, subject=subject)
    kind = config.get("encoder_hid_dim_type") or (None if width is None else "text_proj")
    if kind not in (None, *_PROJECTIONS):
        raise refuse(subject, "encoder_hid_dim_type", kind, f"null, {_any_of(_PROJECTIONS)}")
    if kind is not None and width is None:
        raise refuse(subject, "encoder_hid_dim", None, f"a whole number, since encoder_hid_dim_type is {kind!r}")
    if kind == "image_proj":
        return (_rows("image_embeds", width or 0),)
    if flag(config, "dual_cross_attention", default=False, subject=subject):
        raise refuse(subject, "dual_cross_attention", True, "false: diffusers itself cannot run such a network")
    own = condition_width(configs, source)
    return (
        TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", width or own)),
        *((TensorSpec(name="attention_mask", dtype="float32", shape=("batch", "sequence")),) if mask else ()),
        *((_rows("image_embeds", own),) if kind == "text_image_proj" else ()),
    )


def _guidance(configs: Configs, source: str) -> tuple[TensorSpec, ...]:
    """Describe what is added to the timestep's embedding.

    In distilled checkpoints it is the guidance scale (Luo et al. 2023, https://arxiv.org/abs/2310.04378, 4.1).
    """
    width = integer(configs[source], "time_cond_proj_dim", None, subject=f"{source}/config.json", minimum=4)
    return () if width is None else (_rows("timestep_cond", width),)


def _addition(configs: Configs, source: str) -> tuple[TensorSpec, ...]:
    """Describe what `addition_embed_type` adds to the timestep's embedding."""
    kind = configs[source].get("addition_embed_type")
    if kind in (None, "text"):
        return ()
    if kind == "text_time":
        return size_inputs(configs, source)
    if kind == "text_image":
        width = condition_width(configs, source)
        return _rows("text_embeds", width), _rows("image_embeds", width)
    if kind not in _ADDITIONS:
        raise refuse(f"{source}/config.json", "addition_embed_type", kind, f"null, {_any_of(_ADDITIONS)}")
    image = _rows("image_embeds", read_integer(configs, source, "encoder_hid_dim", None))
    hint = TensorSpec(name="hint", dtype="float32", shape=("batch", 3, "height", "width"))
    return (image, hint) if kind == "image_hint" else (image,)


def condition_width(configs: Configs, source: str = "unet") -> int:
    """Width of the conditioning of a UNet or ControlNet.

    Raises:
        ConfigError: It differs between levels.
    """
    width = configs[source].get("cross_attention_dim", 1280)
    if isinstance(width, list):
        widths = set(read_levels(configs, source, "cross_attention_dim", ()))
        width = widths.pop() if len(widths) == 1 else width
    if isinstance(width, list):
        raise ConfigError(
            f"{source}/config.json: field 'cross_attention_dim': got {width!r}, expected one number for all levels; "
            f"levels of different width are not supported"
        )
    return read_integer({source: {"cross_attention_dim": width}}, source, "cross_attention_dim", None)


def size_inputs(configs: Configs, source: str = "unet") -> tuple[TensorSpec, ...]:
    """Describe pooled text and image sizes, as Stable Diffusion XL takes them (Podell et al. 2023, 2307.01952, 2.2).

    Raises:
        ConfigError: The UNet, or ControlNet, adds something else to its timestep.
    """
    kind = configs[source].get("addition_embed_type")
    if kind is None:
        return ()
    if kind != "text_time" or "text_encoder_2" not in configs:
        raise ConfigError(
            f"{source}/config.json: field 'addition_embed_type': got {kind!r}, expected null, or 'text_time' in a "
            f"checkpoint with a text_encoder_2; nothing else is supported"
        )
    pooled = read_integer(configs, "text_encoder_2", "projection_dim", 512)
    width = read_integer(configs, source, "projection_class_embeddings_input_dim", None) - pooled
    numbers = width // read_integer(configs, source, "addition_time_embed_dim", None)
    return _rows("text_embeds", pooled), _rows("time_ids", numbers)


def _rows(name: str, width: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", width))


def _any_of(names: tuple[str, ...]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"

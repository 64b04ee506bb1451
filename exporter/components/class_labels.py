"""Class labels of UNets: the input that their config's `class_embed_type` adds, and the width of its embedding."""

from diffoundry.exporter.component import Configs, read_integer, read_levels
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import integer, refuse

__all__ = ["class_labels_input", "embedding_width"]

_PROJECTIONS = ("projection", "simple_projection")
"""Kinds whose labels are vectors of any width."""


def class_labels_input(
    configs: Configs, source: str, channels: tuple[int, ...], *, projections: bool, fourier: int = 4
) -> tuple[TensorSpec, ...]:
    """Describe the input for class labels; none where the network takes none.

    diffusers: `UNet2DConditionModel._set_class_embedding`. Labels are numbers of classes, int32 (B,); numbers that are
    embedded like a timestep, float32 (B,); or vectors, float32 (B, width).

    Args:
        configs: Configs of the checkpoint.
        source: Folder of the network.
        channels: Default of the network's class for `block_out_channels`.
        projections: True if the network's class also projects vectors of another width.
        fourier: As in `embedding_width`.

    Raises:
        ConfigError: `class_embed_type` is another.
        CheckpointError: A projection without its width.
    """
    config, subject = configs[source], f"{source}/config.json"
    kind = config.get("class_embed_type")
    kinds = ("timestep", "identity", *(_PROJECTIONS if projections else ()))
    if kind is None:
        count = integer(config, "num_class_embeds", None, subject=subject)
        return () if count is None else (_labels("int32"),)
    if kind not in kinds:
        raise refuse(subject, "class_embed_type", kind, f"null, {', '.join(map(repr, kinds[:-1]))} or {kinds[-1]!r}")
    if kind == "timestep":
        return (_labels("int32" if config.get("time_embedding_type") == "learned" else "float32"),)
    if kind == "identity":
        return (_labels("float32", embedding_width(configs, source, channels, fourier=fourier)),)
    return (_labels("float32", read_integer(configs, source, "projection_class_embeddings_input_dim", None)),)


def embedding_width(configs: Configs, source: str, channels: tuple[int, ...], *, fourier: int = 4) -> int:
    """Read the width of the timestep's embedding, to which that of the labels is added.

    Args:
        configs: Configs of the checkpoint.
        source: Folder of the network.
        channels: As in `class_labels_input`.
        fourier: Embedding channels to each channel of the first level, of Fourier features.

    Raises:
        ConfigError: A field is damaged.
    """
    width = integer(configs[source], "time_embedding_dim", None, subject=f"{source}/config.json")
    factor = fourier if configs[source].get("time_embedding_type") == "fourier" else 4
    return width or factor * read_levels(configs, source, "block_out_channels", channels)[0]


def _labels(dtype: str, *width: int) -> TensorSpec:
    return TensorSpec(name="class_labels", dtype=dtype, shape=("batch", *width))

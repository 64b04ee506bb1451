"""DPT, the depth estimator of depth to image: prepared images to the depth of their pixels.

Ranftl et al. 2021, https://arxiv.org/abs/2103.13413.
"""

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.config_values import numbers
from diffoundry.runtime.models.roles import DEPTH_ESTIMATOR as ESTIMATOR_ROLE

__all__ = ["DEPTH_ESTIMATOR"]

_CLASS = "DPTForDepthEstimation"
_SOURCE = "depth_estimator"


def _describe(configs: Configs) -> Component:
    config = configs[_SOURCE]
    if config.get("backbone_config") and not config.get("is_hybrid"):
        kind = config["backbone_config"].get("model_type") if isinstance(config["backbone_config"], dict) else None
        raise CheckpointError(
            f"{_SOURCE}/config.json: got the backbone {kind!r}, expected DPT's own ViT, or is_hybrid with BiT; write "
            f"[null, null] for {_SOURCE} into model_index.json, and pass depth_map to every call"
        )
    side, channels = (read_integer(configs, _SOURCE, *field) for field in (("image_size", 384), ("num_channels", 3)))
    return Component(
        name=_SOURCE,
        role=ESTIMATOR_ROLE,
        network=_CLASS,
        source=_SOURCE,
        wrapper="diffoundry.exporter.components.depth_estimator_module:DepthEstimatorModule",
        inputs=(TensorSpec(name="pixel_values", dtype="float32", shape=("batch", channels, side, side)),),
        outputs=(TensorSpec(name="predicted_depth", dtype="float32", shape=("batch", *_depth_size(configs, side))),),
        example={"batch": 2},
    )


def _depth_size(configs: Configs, side: int) -> tuple[int, int]:
    """Return height and width of the depth of images of `side`.

    Its head doubles the finest features, which the last fusion doubles. A BiT backbone has them at a quarter of the
    image, a ViT at the first factor of its patches.
    """
    if configs[_SOURCE].get("is_hybrid"):
        return side, side
    patch = read_integer(configs, _SOURCE, "patch_size", 16)
    factors = numbers(configs[_SOURCE], "reassemble_factors", 4, subject=f"{_SOURCE}/config.json", zero=False)
    depth = int(side // patch * (4 if factors is None else factors[0]) * 4)
    return depth, depth


DEPTH_ESTIMATOR = ComponentKind(
    name=_SOURCE,
    source=_SOURCE,
    classes=(f"transformers:{_CLASS}",),
    describe=_describe,
    optional=True,
    folder="feature_extractor",
)

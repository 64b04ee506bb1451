"""Finds a single file's prediction type: given by the user, the file, or the architecture; never guessed."""

from pathlib import Path
from typing import NamedTuple

from diffoundry.exporter.checkpoints.single_file.architectures import Architecture
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["PREDICTION_TYPE", "PREDICTION_TYPES", "Prediction", "find_prediction"]

PREDICTION_TYPE = "prediction_type"
"""Key of the prediction type among a recipe's sources, where the user passed one."""

PREDICTION_TYPES = ("epsilon", "v_prediction")

_MODELSPEC = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction", "v-prediction": "v_prediction"}
"""Values of `modelspec.prediction_type`: https://github.com/Stability-AI/ModelSpec."""

_MODELSPEC_V2 = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
"""Values of `modelspec.architecture` that distinguish versions 2."""

_BASE_STEPS = 875_000
"""`global_step` of Stable Diffusion 2 base; diffusers: `_legacy_load_scheduler`."""

_INPAINTING = 9


class Prediction(NamedTuple):
    """A prediction type with its evidence.

    Attributes:
        kind: One of `PREDICTION_TYPES`.
        reason: Evidence for it, for messages.
    """

    kind: str
    reason: str


def find_prediction(
    path: Path, file: Safetensors, architecture: Architecture, channels: int, asked: str | None
) -> Prediction:
    """Decide by the first source that names it: the user, the file's metadata, marker tensors, the architecture.

    Raises:
        CheckpointError: The metadata names another type, or no source names one.
    """
    if asked is not None:
        return Prediction(asked, "as asked for")
    named = file.metadata.get("modelspec.prediction_type")
    if named is not None and named.lower() not in _MODELSPEC:
        raise CheckpointError(
            f"{path}: metadata modelspec.prediction_type: got {named[:40]!r}, expected epsilon or v; when the file is "
            f"one of these all the same, say which with --prediction-type"
        )
    if named is not None:
        return Prediction(_MODELSPEC[named.lower()], f"modelspec.prediction_type is {named}")
    model = file.metadata.get("modelspec.architecture", "").partition("/")[0]
    if model in _MODELSPEC_V2:
        return Prediction(_MODELSPEC_V2[model], f"modelspec.architecture is {model}")
    if "v_pred" in file:
        return Prediction("v_prediction", "the file is marked v_pred")
    if architecture.prediction is not None:
        return Prediction(architecture.prediction, f"as {architecture.name} does; the file does not say otherwise")
    if channels == _INPAINTING:
        return Prediction("epsilon", f"as {architecture.name} for inpainting does")
    if _global_step(file) == _BASE_STEPS:
        return Prediction("epsilon", f"it was trained for {_BASE_STEPS} steps, as the base model")
    raise CheckpointError(
        f"{path}: got a checkpoint of {architecture.name} that does not say what it predicts; add --prediction-type "
        f"v_prediction for models of 768 pixels, --prediction-type epsilon for base models of 512"
    )


def _global_step(file: Safetensors) -> int | None:
    entry = file.entries.get("global_step")
    if entry is None or entry.shape not in ((), (1,)):
        return None
    return int(file.stored("global_step").reshape(-1)[0])

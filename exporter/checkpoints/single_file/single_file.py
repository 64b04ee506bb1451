"""A checkpoint in one safetensors file, opened by its header; its weights are read network by network."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diffoundry.exporter.checkpoints.json_files import name_some
from diffoundry.exporter.checkpoints.single_file.architectures import Architecture, Changes, FilePart
from diffoundry.exporter.checkpoints.single_file.detect import find_architecture
from diffoundry.exporter.checkpoints.single_file.prediction import (
    PREDICTION_TYPE,
    PREDICTION_TYPES,
    Prediction,
    find_prediction,
)
from diffoundry.exporter.checkpoints.weight_files import PICKLES
from diffoundry.exporter.checkpoints.weight_headers import check_types, open_header
from diffoundry.exporter.configs.assemble import assemble_configs
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["PREDICTION_TYPE", "PREDICTION_TYPES", "SingleFile"]

_SUFFIXES = ("", ".safetensors", ".gguf")
"""Suffixes of weights, whose faults are named; the files of a hub's cache have none."""

_CARRIED = (
    "model_ema.", "betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "lvlb_weights", "logvar",
    "scale_factor", "global_step", "denoiser.", "v_pred", "ztsnr",
)  # fmt: skip
"""Tensors that checkpoints hold beside the networks: the training's schedule, averaged weights, markers."""


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """A checked file.

    Attributes:
        file: Its header.
        architecture: Architecture of the file's networks.
        channels: Number of channels that the UNet takes.
        prediction: Prediction type of the UNet.
        asked: Prediction type passed by the user, or None.
        configs: A diffusers folder without weights that describes the file.
    """

    file: Safetensors
    architecture: Architecture
    channels: int
    prediction: Prediction
    asked: str | None
    configs: Path

    @classmethod
    def open(cls, path: Path, *, prediction_type: str | None = None, given: Collection[str] = ()) -> Self:
        """Open a file and detect its architecture.

        Args:
            path: The file.
            prediction_type: "epsilon" or "v_prediction", or None for the type recorded in the file.
            given: Networks from elsewhere, which the file may lack.

        Raises:
            CheckpointError: It is pickled or damaged, of no known architecture, incomplete, or its prediction type is
                unknown.
            InputError: An unknown prediction type.
        """
        if prediction_type is not None and prediction_type not in PREDICTION_TYPES:
            raise InputError(f"prediction type: got {prediction_type!r}, expected {' or '.join(PREDICTION_TYPES)}")
        if path.suffix in PICKLES:
            raise CheckpointError(
                f"{path}: is a pickled file, which can run code when read, and is refused; expected .safetensors; "
                f"rewrite a file that you trust with 'diffoundry convert {path} -o NEW.safetensors'"
            )
        try:
            file = open_header(path)
        except CheckpointError as error:
            if path.suffix in _SUFFIXES:
                raise
            raise CheckpointError(
                f"{path} is no checkpoint, expected a .safetensors file or a folder in diffusers' layout"
            ) from error
        check_types(path, file.entries)
        shapes = {name: entry.shape for name, entry in file.entries.items()}
        architecture, channels = find_architecture(path, shapes, given)
        prediction = find_prediction(path, file, architecture, channels, prediction_type)
        changes = _changes(architecture, channels, prediction.kind, zero_snr="ztsnr" in file)
        return cls(
            file=file,
            architecture=architecture,
            channels=channels,
            prediction=prediction,
            asked=prediction_type,
            configs=assemble_configs(architecture.configs, changes),
        )

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    def part(self, source: str) -> FilePart:
        """Return the position of a network in the file, by its folder in diffusers' layout."""
        return next(part for part in self.architecture.parts if part.source == source)

    def identity(self) -> dict[str, str]:
        """Entries for the recipe: its SHA-256, and the prediction type passed by the user."""
        asked = {} if self.asked is None else {PREDICTION_TYPE: self.asked}
        return {self.path.name: sha256_of(self.path), **asked}

    def notices(self) -> list[str]:
        """Notes for the user: the detected architecture, and the parts left out."""
        predicts = f"predicts {self.prediction.kind} ({self.prediction.reason})"
        notices = [
            f"{self.path.name} is {self.architecture.name}, its UNet takes {self.channels} channels and {predicts}"
        ]
        if "ztsnr" in self.file:
            notices.append("the file is marked ztsnr: the scheduler's betas are rescaled to no signal at the last step")
        if any(name.startswith("model_ema.") for name in self.file):
            notices.append("the averaged weights (EMA) in the file are left out, as diffusers does")
        prefixes = tuple(prefix for part in self.architecture.parts for prefix in part.prefixes)
        left = [name for name in self.file if not name.startswith((*prefixes, *_CARRIED))]
        if left:
            notices.append(f"tensors that belong to none of its networks are left out: {name_some(left)}")
        return notices


def _changes(architecture: Architecture, channels: int, prediction: str, *, zero_snr: bool) -> Changes:
    """Changes of the installed configs for this file."""
    scheduler = {"prediction_type": prediction, **({"rescale_betas_zero_snr": True} if zero_snr else {})}
    said: list[Changes] = [
        {
            "model_index.json": {"_class_name": architecture.pipelines[channels]},
            "unet/config.json": {"in_channels": channels},
            "scheduler/scheduler_config.json": scheduler,
        },
        architecture.for_prediction.get(prediction, {}),
        architecture.for_channels.get(channels, {}),
    ]
    joined: dict[str, dict[str, Any]] = {}
    for changes in said:
        for file, fields in changes.items():
            joined.setdefault(file, {}).update(fields)
    return joined

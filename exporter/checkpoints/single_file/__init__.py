"""Checkpoints in one file, as shared on model sites: their architecture and the position of each network's weights."""

from diffoundry.exporter.checkpoints.single_file.single_file import PREDICTION_TYPE, PREDICTION_TYPES, SingleFile

__all__ = ["PREDICTION_TYPE", "PREDICTION_TYPES", "SingleFile"]

"""Checkpoints in one file, as they are shared on model sites: what is in them, and where each network's weights lie."""

from diffoundry.exporter.checkpoints.single_file.single_file import PREDICTION_TYPE, PREDICTION_TYPES, SingleFile

__all__ = ["PREDICTION_TYPE", "PREDICTION_TYPES", "SingleFile"]

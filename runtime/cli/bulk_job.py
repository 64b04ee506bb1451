"""The work of a bulk as a value, so that it can be sent to another process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffoundry.runtime.cli.open_pipeline import open_pipeline
from diffoundry.runtime.cli.prepared_run import PreparedRun
from diffoundry.runtime.images.save import SUFFIXES
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["BulkJob"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkJob:
    """Everything that a process needs to generate prompts of a bulk.

    Attributes:
        bundles: The bundle, or those of a chain.
        engines: Keyword arguments of `load`.
        settings: Merged options of the command.
        defaulted: Names in `settings` that were defaults of an earlier run.
        files: Options that name files.
    """

    bundles: tuple[Path, ...]
    engines: Mapping[str, Any]
    settings: Mapping[str, Any]
    defaulted: frozenset[str]
    files: Mapping[str, Any]

    def open(self) -> PipelineBase:
        """Load the pipeline."""
        return open_pipeline(self.bundles, **self.engines)

    def prepare(self, pipeline: PipelineBase, folder: Path) -> PreparedRun:
        """Prepare the runs of a pipeline, which nothing else may have prepared."""
        return PreparedRun.of_command(
            pipeline, dict(self.settings), self.defaulted, self.files, folder / f"000001{SUFFIXES[0]}"
        )

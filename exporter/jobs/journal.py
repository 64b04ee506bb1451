"""Records the finished parts of a long task, so that an interrupted task can continue."""

import json
from pathlib import Path
from typing import TypeVar

from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.json_codec import RecordError, from_json, to_json

__all__ = ["Journal"]

Record = TypeVar("Record")


class Journal:
    """A folder with one JSON file for each finished part.

    Attributes:
        folder: Folder of the records, made with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, key: str, kind: type[Record]) -> Record | None:
        """Return the record under `key`; None where there is none, or where it is damaged: the part is done again."""
        path = self.folder / f"{key}.json"
        if path.is_symlink() or not path.is_file():
            return None
        try:
            return from_json(kind, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, RecursionError, RecordError, OSError):
            return None

    def note(self, key: str, record: object) -> None:
        """Record that the part `key` is finished, with its result (a dataclass or JSON values).

        Raises:
            BundleError: It cannot be written.
        """
        write_text(self.folder / f"{key}.json", json.dumps(to_json(record)))

    def forget(self) -> None:
        """Delete every record."""
        for path in self.folder.glob("*.json"):
            path.unlink()

"""Names of the files that `generate` writes: as typed, or numbered so that no image is overwritten."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffoundry.runtime.bundle.file_checks import enclosing_bundle
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import SUFFIXES, check_output_path

__all__ = ["OutputFiles"]

_STEM = "out"


class OutputFiles:
    """The files of one command.

    `x.png` is written as it is, or as x-0.png, x-1.png ... for several images. Without a name, and in a folder, files
    are numbered after those that are there: out-0001.png, out-0002.png ...

    Attributes:
        example: A path of the kind that is written, for checks before generating.
    """

    def __init__(self, typed: str | None, suffixes: Sequence[str] = SUFFIXES) -> None:
        """Read -o.

        Args:
            typed: A file, a folder that exists, a folder to make with a slash at its end, or None for the current one.
            suffixes: Possible endings of files; numbered ones have the first.

        Raises:
            InputError: Nothing can be written there.
        """
        if typed == "":
            raise InputError("--output: got an empty name, expected a file such as out.png, or a folder")
        path = Path(typed or ".")
        self._suffixes = tuple(suffixes)
        self._file = None if self._is_folder(typed, path) else check_output_path(path, suffixes)
        self._folder = path if self._file is None else path.parent
        if self._file is None and not path.parent.is_dir():
            raise InputError(f"--output {typed}: its folder {path.parent} does not exist; make it, or choose another")
        found = enclosing_bundle(self._folder)
        if found == self._folder:
            raise InputError(f"--output {self._folder}: got a bundle, expected another folder; choose one")
        if found is not None:
            raise InputError(
                f"--output {self._folder}: got a folder of the bundle {found}, expected another; choose one"
            )
        if path.is_dir() and not os.access(path, os.W_OK):
            raise InputError(f"--output {path}: this folder takes no files; choose another")
        self.example = self._file or path / f"{_STEM}-0001{suffixes[0]}"

    def prepare(self) -> None:
        """Make the folder; call it when everything else is checked.

        Raises:
            InputError: It cannot be made.
        """
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"--output {self._folder}: cannot be made ({error.strerror}); choose another") from error

    @contextmanager
    def name(self, index: int, count: int) -> Iterator[Path]:
        """Name the file of one image, to be written in the context.

        A numbered file exists from then on, empty; if the context fails it is removed.

        Args:
            index: Of the image.
            count: Images of the command.

        Raises:
            InputError: The folder takes no files.
        """
        if self._file is not None:
            yield self._file if count == 1 else self._file.with_name(f"{self._file.stem}-{index}{self._file.suffix}")
            return
        path = self._next()
        try:
            yield path
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _next(self) -> Path:
        """Take the number after the highest, in a way that two commands never take the same."""
        pattern = re.compile(
            rf"{_STEM}-(\d{{4,9}})\.({'|'.join(suffix[1:] for suffix in self._suffixes)})", re.IGNORECASE
        )
        taken = [int(found[1]) for entry in self._folder.iterdir() if (found := pattern.fullmatch(entry.name))]
        number = max(taken, default=0)
        while True:
            number += 1
            path = self._folder / f"{_STEM}-{number:04}{self._suffixes[0]}"
            try:
                path.open("xb").close()
            except FileExistsError:
                continue
            except OSError as error:
                raise InputError(
                    f"image {path}: cannot be written ({error.strerror}); choose another folder"
                ) from error
            return path

    @staticmethod
    def _is_folder(typed: str | None, path: Path) -> bool:
        try:
            return typed is None or typed.endswith(("/", os.sep)) or path.is_dir()
        except OSError as error:
            raise InputError(f"--output {path}: cannot be written ({error.strerror}); choose another name") from error

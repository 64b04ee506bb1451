"""The tokenizer as an OpenVINO model, which OpenVINO GenAI looks for beside the tokenizer's own files."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

from diffoundry.runtime.errors import EngineError, MissingExtraError

__all__ = ["TOKENIZER_FILES", "write_tokenizer"]

TOKENIZER_FILES = tuple(
    f"openvino_{kind}.{suffix}" for kind in ("tokenizer", "detokenizer") for suffix in ("xml", "bin")
)


def write_tokenizer(folder: Path) -> None:
    """Write `TOKENIZER_FILES` into a tokenizer's folder.

    The vendor's command does it, in a process of its own: it imports transformers.

    Raises:
        MissingExtraError: openvino-tokenizers is not installed.
        EngineError: The command failed; the message ends with its last words.
    """
    command = shutil.which("convert_tokenizer", path=sysconfig.get_path("scripts")) or shutil.which("convert_tokenizer")
    if command is None:
        raise MissingExtraError("target 'openvino'", "openvino_tokenizers", "openvino")
    done = subprocess.run(
        [command, str(folder), "--with-detokenizer", "--output", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    if done.returncode or missing:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"it did not write {', '.join(missing)}"]
        raise EngineError(f"tokenizer {folder}: {command} cannot convert it: {words[-1]}; check its files")

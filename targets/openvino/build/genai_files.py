"""The tokenizer as an OpenVINO model, which OpenVINO GenAI looks for beside the tokenizer's own files."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from diffoundry.runtime.errors import EngineError, MissingExtraError
from diffoundry.targets.openvino.import_openvino import TELEMETRY

__all__ = ["TOKENIZER_FILES", "write_tokenizer"]

TOKENIZER_FILES = tuple(
    f"openvino_{kind}.{suffix}" for kind in ("tokenizer", "detokenizer") for suffix in ("xml", "bin")
)

_COMMAND = {"group": "console_scripts", "name": "convert_tokenizer"}

_CALL = f"""
import sys
from importlib.metadata import entry_points
sys.modules[{TELEMETRY!r}] = None
next(iter(entry_points(**{_COMMAND}))).load()()
"""


def write_tokenizer(folder: Path) -> None:
    """Write `TOKENIZER_FILES` into a tokenizer's folder.

    The vendor's command does it, in a process of its own: it imports transformers.

    Raises:
        MissingExtraError: openvino-tokenizers is not installed.
        EngineError: The command failed; the message ends with its last words.
    """
    if not entry_points(**_COMMAND):
        raise MissingExtraError("target 'openvino'", "openvino_tokenizers", "openvino")
    done = subprocess.run(
        [sys.executable, "-c", _CALL, str(folder), "--with-detokenizer", "--output", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    if done.returncode or missing:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"it did not write {', '.join(missing)}"]
        raise EngineError(f"tokenizer {folder}: openvino-tokenizers cannot convert it: {words[-1]}; check its files")

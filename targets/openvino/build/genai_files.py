"""Files that OpenVINO GenAI needs: tokenizers as OpenVINO models, and VAE configs without gaps."""

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.errors import EngineError, MissingExtraError
from diffoundry.runtime.models.autoencoder_kl import SCALING_FACTOR
from diffoundry.targets.openvino.import_openvino import TELEMETRY

__all__ = ["TOKENIZER_FILES", "fill_in", "write_tokenizer"]

TOKENIZER_FILES = tuple(
    f"openvino_{kind}.{suffix}" for kind in ("tokenizer", "detokenizer") for suffix in ("xml", "bin")
)

_COMMAND = {"group": "console_scripts", "name": "convert_tokenizer"}

_CALL = f"""
import sys
from importlib.metadata import entry_points
sys.modules[{TELEMETRY!r}] = None
sys.modules["torch"] = None  # transformers imports it where it can, which is half of the time
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


def fill_in(config: Path) -> None:
    """Write the scaling factor of latents into a config.json that has none, as those of the first checkpoints.

    diffusers: the default of `AutoencoderKL`'s `scaling_factor`; OpenVINO GenAI 2026.4 takes 1.
    """
    fields = json.loads(config.read_text(encoding="utf-8"))
    if "scaling_factor" in fields or fields.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        return
    write_text(config, json.dumps({**fields, "scaling_factor": SCALING_FACTOR}, indent=2) + "\n")

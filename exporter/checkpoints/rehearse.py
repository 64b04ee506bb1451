"""Opens a checkpoint's configs, scheduler and tokenizers as the runtime will, before the first job of an export."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import diffoundry
from diffoundry.exporter.bundle_writer import sum_files
from diffoundry.exporter.checkpoints.contents import CheckpointContents
from diffoundry.exporter.jobs.storage import storage_sentence
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, dump_manifest
from diffoundry.runtime.bundle.specs import ComponentSpec, Recipe
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError, CheckpointError, DiffoundryError, InputError
from diffoundry.runtime.models.protocols import TextEncoder
from diffoundry.runtime.pipelines import open_pipeline
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.schedulers import scheduler_from_config

__all__ = ["rehearse"]


def rehearse(
    checkpoint: CheckpointContents, recipe: Recipe, check: Callable[[PipelineBase], None] | None = None
) -> None:
    """Open a bundle of the checkpoint without graphs, as `generate` opens it, so that an export does not end in vain.

    Args:
        checkpoint: The checkpoint.
        recipe: Of the export.
        check: Called with the opened pipeline, or None.

    Raises:
        CheckpointError: The runtime refuses a config, the scheduler, or a tokenizer; the message names the file.
        BundleError: The temporary folder cannot be written.
    """
    for folder, config in checkpoint.scheduler_configs.items():
        try:
            scheduler_from_config(config)
        except DiffoundryError as error:
            raise CheckpointError(f"{checkpoint.root / folder / 'scheduler_config.json'}: {error}") from error
    with tempfile.TemporaryDirectory(prefix="diffoundry-rehearsal-") as scratch:
        place = Path(scratch)
        try:
            _write(checkpoint, recipe, place)
            pipeline = open_pipeline(EngineSession(Bundle(place)))
        except DiffoundryError as error:
            raise CheckpointError(_in_checkpoint(str(error), checkpoint, scratch)) from error
        except OSError as error:
            named = OSError(error.errno, error.strerror, str(error.filename2 or error.filename or scratch))
            raise BundleError(storage_sentence(named, "the check of the checkpoint", scratch)) from error
        for encoder in pipeline.text_encoders:
            _check_length(checkpoint.root / encoder.folder / "tokenizer_config.json", encoder)
        if check is not None:
            check(pipeline)


def _check_length(path: Path, encoder: TextEncoder) -> None:
    try:
        _ = encoder.length
    except InputError as error:
        raise CheckpointError(
            f"{path}: got no 'model_max_length', expected the number of tokens of a prompt, 77 for CLIP; add it"
        ) from error


def _write(checkpoint: CheckpointContents, recipe: Recipe, place: Path) -> None:
    for source, name in checkpoint.bundle_files():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place / name)
    for folder in checkpoint.tokenizer_folders:
        checkpoint.write_tokenizer(folder, place / folder)
    index = json.dumps(checkpoint.bundle_model_index(), indent=2)
    (place / "model_index.json").write_text(index + "\n", encoding="utf-8")
    components = {
        one.name: ComponentSpec(role=one.role, network=one.network, graph=(), engines=())
        for one in checkpoint.components
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        diffoundry=diffoundry.__version__,
        family=checkpoint.family.name,
        recipe=recipe,
        components=components,
        files=sum_files(place),
    )
    (place / MANIFEST_NAME).write_text(dump_manifest(manifest), encoding="utf-8")


def _in_checkpoint(message: str, checkpoint: CheckpointContents, place: str) -> str:
    """Name the checkpoint's files in a message about their copies."""
    folders = {component.name: str(checkpoint.folder(component.source)) for component in checkpoint.components}
    for name, folder in folders.items():
        message = message.replace(f"{place}/{name}/", f"{folder}/")
    message = message.replace(f"bundle {place}", str(checkpoint.root)).replace(place, str(checkpoint.root))
    message = re.sub(r"; (copy or )?export (it|the bundle|the tokenizer) again", "; download it again", message)
    first, slash, rest = message.partition("/")
    if slash and first in folders:  # a config, named from the bundle's folder
        return f"{folders[first]}/{rest}"
    if message.startswith("preprocessor_config.json"):
        return f"{checkpoint.root / 'feature_extractor'}/{message}"
    return message if str(checkpoint.root) in message else f"{checkpoint.root}: {message}"

"""Files for the results of pipelines that make no image: embeddings, and latents that other programs render."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.cli.image_settings import ImageSettings
from diffoundry.runtime.cli.output_files import OutputFiles
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import write_whole
from diffoundry.runtime.images.settings import JSON, dump_settings
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["ARRAY_SUFFIXES", "check_arrays", "write_arrays"]

ARRAY_SUFFIXES = (".safetensors", ".npy")
"""Endings of the files; the first is the usual one."""

_KEYWORD = "diffoundry"
"""Of the settings in a safetensors file, as in a PNG file."""


def check_arrays(pipeline: PipelineBase, output: str | None) -> None:
    """Refuse to write the result of a prior as an image, and several arrays as one .npy file.

    Args:
        pipeline: One that makes no image.
        output: -o as typed.

    Raises:
        InputError: As said.
    """
    suffix, handed = Path(output or "").suffix.lower(), pipeline.handed_shapes()
    if suffix == ".npy" and len(handed) > 1:
        raise InputError(
            f"--output {output}: got a file for one array, expected one for {' and '.join(handed)}; name it "
            f"{Path(str(output)).stem}.safetensors"
        )
    if handed and suffix not in ARRAY_SUFFIXES:
        name = pipeline.bundle_name
        raise InputError(
            f"DIR: got {name}, a {pipeline.session.bundle.pipeline_class}, which makes embeddings and no image; chain "
            f"it with its decoder: 'diffoundry generate {name}+DECODER', or write the embeddings with -o "
            f"NAME.safetensors"
        )


def write_arrays(arrays: Mapping[str, FloatArray], outputs: OutputFiles, kept: ImageSettings) -> list[Path]:
    """Write a result that is no image, the row of each prompt or image into a file of its own.

    Args:
        arrays: Name to array, with as many rows each.
        outputs: Names of the files.
        kept: Settings that the files keep.

    Raises:
        InputError: A file or the settings cannot be written; the message says why.
    """
    paths: list[Path] = []
    count = len(next(iter(arrays.values())))  # a prior's negative prompts have no row
    kept = replace(kept, count=count)
    for index in range(count):
        with outputs.name(index, count) as path:
            _save({name: rows[index] for name, rows in arrays.items()}, path, kept.of_image(index))
        paths.append(path)
    return paths


def _save(arrays: Mapping[str, FloatArray], path: Path, settings: Mapping[str, JSON]) -> None:
    """Write arrays as a .npy file of one array, or a .safetensors file with the settings in its metadata.

    Args:
        arrays: Name to array.
        path: Ends in one of `ARRAY_SUFFIXES`.
        settings: As `save_image`; a .npy file keeps none.
    """
    if path.suffix.lower() == ".npy":
        (array,) = arrays.values()
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        write_whole(path, stream.getvalue())
        return
    write_whole(path, _encode(arrays, {_KEYWORD: dump_settings(settings, path)}))


def _encode(arrays: Mapping[str, npt.NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file: the length of the header, the header, the numbers.

    Format: https://github.com/huggingface/safetensors, section "Format".
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts, end = [], 0
    for name, array in arrays.items():
        parts.append(np.ascontiguousarray(array, "<f4").tobytes())
        start, end = end, end + len(parts[-1])
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])

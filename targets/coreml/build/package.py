"""Writes a MIL program as a package; merges packages of several sizes into one with a function for each."""

import io
import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil.mil import Program

__all__ = ["Counts", "merge_packages", "operator_counts", "write_package"]

Counts = dict[str, int]
"""Operator to its count in a package, without constants."""

_MODEL = "Data/com.apple.CoreML/model.mlmodel"
_DATE = "com.github.apple.coremltools.conversion_date"

_PASSES = (
    "common::noop_elimination",  # reshapes to the same shape, identities
    "common::cast_optimization",  # half precision at the edges: two casts in a row
    "common::fuse_linear_bias",  # ONNX adds it apart
    "common::fuse_conv_bias",  # the same where a linear layer became a convolution
    "common::merge_consecutive_reshapes",  # a group norm's last and an image's first
    "common::guard_negative_gather_indices",  # ONNX counts them from the end; from iOS 17 on they are out of bounds
    "common::const_elimination",  # the sizes that the guard asks for
    "common::const_deduplication",  # weights and masks that several layers share
    "common::dead_code_elimination",  # what the ones before left
    "common::dedup_op_and_var_names",  # ours and theirs
)
"""Those of coremltools' hundred passes that change our programs, in their order there. `fuse_elementwise_to_batchnorm`
fails on half precision, and all of them together take three times as long."""


def write_package(program: Program, path: Path, opset: Any, metadata: Mapping[str, str]) -> None:
    """Optimise and serialise a program.

    The graph's own types are the package's: coremltools' pass to half precision is not applied, which also takes three
    times the memory.

    Args:
        program: Its function is called "main".
        path: A folder `*.mlpackage`; replaced when it exists.
        opset: The deployment target.
        metadata: Description stored in the package.
    """
    shutil.rmtree(path, ignore_errors=True)
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):  # progress bars
        ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=opset,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            package_dir=str(path),
            pass_pipeline=ct.PassPipeline(pass_names=list(_PASSES), pipeline_name="diffoundry"),
        )
    _finish(path, metadata)


def merge_packages(parts: Mapping[str, Path], path: Path, metadata: Mapping[str, str]) -> None:
    """Make one package with a function for each of several; weights that they share are stored once. iOS 18.

    Args:
        parts: Function name to package; the first is the default function. The packages are removed.
        path: A folder `*.mlpackage`; replaced when it exists.
        metadata: Description stored in the package.
    """
    shutil.rmtree(path, ignore_errors=True)
    description = ct.utils.MultiFunctionDescriptor()
    for name, part in parts.items():
        description.add_function(str(part), src_function_name="main", target_function_name=name)
    description.default_function_name = next(iter(parts))
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        ct.utils.save_multifunction(description, str(path))
    for part in parts.values():
        shutil.rmtree(part)
    _finish(path, metadata)


def operator_counts(path: Path) -> Counts:
    """Count the operators of a package's first function."""
    function = next(iter(_read_model(path).mlProgram.functions.values()))
    block = next(iter(function.block_specializations.values()))
    counts: Counts = {}
    for operation in block.operations:
        if operation.type != "const":
            counts[operation.type] = counts.get(operation.type, 0) + 1
    return dict(sorted(counts.items()))


def _read_model(path: Path) -> Any:
    model = ct.proto.Model_pb2.Model()
    model.ParseFromString((path / _MODEL).read_bytes())
    return model


def _finish(path: Path, metadata: Mapping[str, str]) -> None:
    """Let the same program give the same bytes: no date, and identifiers that follow from the contents' names."""
    model = _read_model(path)
    notes = model.description.metadata.userDefined
    notes.pop(_DATE, None)
    for key, text in metadata.items():
        notes[key] = text
    (path / _MODEL).write_bytes(model.SerializeToString(deterministic=True))
    manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    names = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper() for key, entry in entries.items()}
    manifest["itemInfoEntries"] = {
        names[key]: entry for key, entry in sorted(entries.items(), key=lambda item: item[1]["path"])
    }
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n", encoding="utf-8")

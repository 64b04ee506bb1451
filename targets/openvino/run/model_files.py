"""Reads the two files of a model, and no other."""

from pathlib import Path, PurePosixPath

from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.errors import BundleError
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.run.devices import core

__all__ = ["read_listed"]

_BEGINNINGS = (b"<?xml", b"<net")
"""OpenVINO reads other formats by content, whatever the name, and those may name further files."""


def read_listed(path: Path, spec: EngineSpec) -> ov.Model:
    """Read a model in OpenVINO's own format, with the weights that the manifest lists.

    Args:
        path: Its first file.
        spec: Its manifest entry.

    Raises:
        BundleError: It is in another format, or its weights are not listed.
        RuntimeError: OpenVINO's, when it cannot read the files.
        UnicodeError: OpenVINO's words about a file quote bytes that are no text.
    """
    weights = PurePosixPath(spec.files[0]).with_suffix(".bin")
    if weights.as_posix() not in spec.files:
        raise BundleError(
            f"engine {path}: its weights, {weights.name}, are not listed in the manifest; do not trust this bundle"
        )
    with path.open("rb") as stream:
        begin = stream.read(8)
    if path.suffix != ".xml" or not begin.startswith(_BEGINNINGS):
        raise BundleError(
            f"engine {path}: got another format, expected XML as OpenVINO writes it; do not trust this bundle"
        )
    return core().read_model(path, path.with_suffix(".bin"))

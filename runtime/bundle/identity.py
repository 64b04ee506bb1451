"""Names the version of diffoundry and the bundles of a process, so that another one can compare its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import diffoundry
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.manifest import MANIFEST_NAME

__all__ = ["find_difference", "identify"]

_VERSION = "diffoundry"


def identify(bundles: Sequence[Path]) -> dict[str, str]:
    """Return the version, and the SHA-256 of each bundle's manifest, which holds those of all other files.

    Args:
        bundles: Folders; one without a manifest has no sum.

    Returns:
        By "diffoundry" and by path. Plain texts, so that every version can read them.
    """
    return {_VERSION: diffoundry.__version__, **{str(path): _sum(path) for path in bundles}}


def find_difference(identity: Mapping[str, str], bundles: Sequence[Path]) -> str | None:
    """Compare this process with another one.

    Args:
        identity: As `identify` returned it to the other.
        bundles: The bundles that both open.

    Returns:
        None if nothing differs, otherwise the end of a sentence about this process: "has diffoundry 0.2, ...".
    """
    own, other = diffoundry.__version__, identity.get(_VERSION)
    if own != other:
        return f"has diffoundry {own}, expected {other}; install the same version on every machine of the cluster"
    for path in bundles:
        if _sum(path) != identity.get(str(path)):
            return (
                f"has another bundle at {path} than the machine of the command; copy the same one to every machine of "
                f"the cluster"
            )
    return None


def _sum(path: Path) -> str:
    manifest = path / MANIFEST_NAME
    return sha256_of(manifest) if manifest.is_file() else ""

"""The public npm packages that hold the images and the labels, fetched by name through npm itself."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from diffoundry.runtime.errors import DiffoundryError

__all__ = ["FLAT", "IMAGES", "LABELS", "NpmPackage", "fetch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NpmPackage:
    """One version of one npm package.

    Attributes:
        name: as npm writes it, with its scope.
        version: exact.
        integrity: base64 SHA-512 of the packed archive, as in a package-lock file: the data cannot drift.
        members: leading parts of the archive's paths that are unpacked.
    """

    name: str
    version: str
    integrity: str
    members: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Name of the unpacked folder: the package's name without its scope, and the version."""
        return f"{self.name.rpartition('/')[2]}-{self.version}"


IMAGES = NpmPackage(
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    integrity="Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    members=("package/assets/", "package/README.md", "package/package.json"),
)
LABELS = NpmPackage(
    name="emojibase-data",
    version="17.0.0",
    integrity="Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    members=("package/en/data.json", "package/LICENSE", "package/package.json"),
)
FLAT = NpmPackage(
    name="emoji-datasource-google",
    version="16.0.0",
    integrity="ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    members=("package/img/google/64/", "package/LICENSE", "package/README.md", "package/package.json"),
)


def fetch(package: NpmPackage, folder: Path) -> Path:
    """Fetch a package below `folder` with `npm pack`, unless it is there.

    It is unpacked beside its place and renamed, so it is whole or absent.

    Returns:
        The folder that holds the package's own files.

    Raises:
        DiffoundryError: npm is missing, npm could not fetch the package, or what came is not what was pinned.
    """
    place = folder / package.folder
    if place.is_dir():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{package.folder}-") as scratch:
        archive = _pack(package, Path(scratch), place)
        _check(package, archive)
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar.getmembers() if m.name.startswith(package.members)]
            tar.extractall(scratch, members=wanted, filter="data")
        (Path(scratch) / "package").rename(place)
    return place


def _pack(package: NpmPackage, scratch: Path, place: Path) -> Path:
    by_hand = f"or unpack the archive of {package.name} {package.version} to {place} by hand"
    npm = shutil.which("npm")
    if npm is None:
        raise DiffoundryError(
            f"Fetching {package.name} needs the command 'npm', which is not on the PATH. "
            f"Install Node.js, which brings npm, {by_hand}."
        )
    command = [npm, "pack", f"{package.name}@{package.version}", "--pack-destination", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(scratch.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        said = " / ".join(line for line in done.stderr.splitlines() if "npm error" in line)[:400]
        raise DiffoundryError(
            f"npm could not fetch {package.name} {package.version} (exit code {done.returncode}): "
            f"{said or 'no reason given'}. Check the network and npm's settings, {by_hand}."
        )
    return archives[0]


def _check(package: NpmPackage, archive: Path) -> None:
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.integrity:
        raise DiffoundryError(
            f"The archive of {package.name} {package.version} has SHA-512 {digest[:16]}..., "
            f"expected {package.integrity[:16]}...: it is not the one these weights were made from. "
            "Clear npm's cache (npm cache clean --force) and try again."
        )

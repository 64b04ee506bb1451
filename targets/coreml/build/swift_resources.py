"""Writes the resources folder that Apple's ml-stable-diffusion Swift package opens, and compiles its models.

Names: apple/ml-stable-diffusion, `StableDiffusionPipeline+Resources.swift`, `ResourceURLs`.
"""

import shutil
import subprocess
from pathlib import Path

from diffoundry.runtime.errors import EngineError
from diffoundry.runtime.models.roles import DENOISER, TEXT_ENCODER, VAE_DECODER, VAE_ENCODER
from diffoundry.targets.default_sizes import config_of_role, folders_of_role

__all__ = ["FOLDER", "write_resources"]

FOLDER = "Resources"

_MODELS = {
    "TextEncoder": (TEXT_ENCODER, "model.mlpackage"),
    "Unet": (DENOISER, "model.mlpackage"),
    "UnetChunk1": (DENOISER, "model.chunk1.mlpackage"),
    "UnetChunk2": (DENOISER, "model.chunk2.mlpackage"),
    "VAEDecoder": (VAE_DECODER, "model.mlpackage"),
    "VAEEncoder": (VAE_ENCODER, "model.mlpackage"),
}
"""The model's name there, and the role of its component with the package that it is compiled from."""

_UNET = "UNet2DConditionModel"

_VOCABULARY = ("vocab.json", "merges.txt")

_SCRIPT = """\
#!/bin/sh
# Compiles the packages of this bundle for Apple's ml-stable-diffusion. Run it on a Mac with Xcode.
set -eu
cd "$(dirname "$0")"
{lines}"""

_LINE = """\
xcrun coremlcompiler compile ../{package} .
rm -rf {name}.mlmodelc && mv {stem}.mlmodelc {name}.mlmodelc
"""


def write_resources(bundle: Path) -> None:
    """Write `<bundle>/Resources`: the vocabulary, a script that compiles the models, and the models if it can run here.

    Raises:
        EngineError: The denoiser is no UNet, a file is missing, there is more than one size before iOS 18, or the
            compiler failed.
    """
    network = config_of_role(bundle, DENOISER).get("_class_name", _UNET)
    if network != _UNET:
        raise EngineError(
            f"coreml layout 'swift': got the denoiser {network}, expected {_UNET}; export without --layout swift"
        )
    models = {name: package for name, place in _MODELS.items() if (package := _package(bundle, *place)) is not None}
    missing = [name for name in ("TextEncoder", "VAEDecoder") if name not in models]
    if not {"Unet", "UnetChunk1"} & set(models):
        missing.append("Unet")
    if missing:
        raise EngineError(
            f"coreml layout 'swift': got no package for {', '.join(missing)}, expected one for each; Apple's code "
            f"opens one size: give one with --buckets, or choose --deployment-target iOS18, where a package has several"
        )
    folder = bundle / FOLDER
    folder.mkdir(exist_ok=True)
    for name in _VOCABULARY:
        source = bundle / "tokenizer" / name
        if not source.is_file():
            raise EngineError(
                f"coreml layout 'swift': got no tokenizer/{name} in the bundle, expected CLIP's vocabulary"
            )
        shutil.copyfile(source, folder / name)
    lines = "".join(
        _LINE.format(name=name, package=package, stem=Path(package).stem) for name, package in models.items()
    )
    script = folder / "compile.sh"
    script.write_text(_SCRIPT.format(lines=lines), encoding="utf-8")
    script.chmod(0o755)
    if _has_compiler():
        _compile(script)


def _package(bundle: Path, role: str, file: str) -> str | None:
    """Return the path of a package in the bundle, or None when the bundle has none; of several encoders the first."""
    for folder in folders_of_role(bundle, role):
        if (folder / file / "Manifest.json").is_file():
            return f"{folder.name}/{file}"
    return None


def _has_compiler() -> bool:
    """Return True if Apple's compiler is installed; `xcrun` also exists without it."""
    if shutil.which("xcrun") is None:
        return False
    return subprocess.run(["xcrun", "--find", "coremlcompiler"], capture_output=True, check=False).returncode == 0


def _compile(script: Path) -> None:
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise EngineError(
            f"coreml layout 'swift': coremlcompiler failed with status {done.returncode}: {''.join(last)}; run "
            f"{script} to see all it says, or export without --layout swift"
        )

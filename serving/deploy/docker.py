"""A folder for `docker build`: a Dockerfile over the project's own image, and the bundle."""

import json
from pathlib import Path

from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import InputError
from diffoundry.serving.deploy.deployment import copy_bundle, deployment_name

__all__ = ["extras_of", "write_dockerfile"]

_PORT = 8000

_EXTRAS = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
"""Extras that bring an engine to Linux, each named after its target."""

_TEXT = """# syntax=docker/dockerfile:1
# Made by `diffoundry deploy`. Serves {name} over HTTP: docker build -t {tag} . && docker run -p {port}:{port} {tag}
# The base is made of the Dockerfile in diffoundry's repository, with the extra `serve` and the bundle's engines:
#   docker build --target run --build-arg EXTRAS={extras} -t diffoundry-serve .
ARG BASE=diffoundry-serve
FROM ${{BASE}}
COPY {name}.bundle /bundles/{name}.bundle
EXPOSE {port}
HEALTHCHECK --start-period=60s CMD {health}
# Options of `diffoundry serve`, such as --api-key-file, may be added here.
CMD {command}
"""

_HEALTH = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/ready')"


def extras_of(bundle: Bundle) -> str:
    """Return the extras that serve a bundle: "serve,onnxruntime".

    Raises:
        InputError: No engine of it runs in a container.
    """
    engines = () if bundle.manifest is None else bundle.manifest.components.values()
    targets = {engine.target for one in engines for engine in one.engines} or {"onnxruntime"}
    known = [name for name in _EXTRAS if name in targets]
    if not known:
        raise InputError(
            f"--to docker: {bundle.root} has engines for {', '.join(sorted(targets))}, expected one of "
            f"{', '.join(_EXTRAS)}; add one with 'diffoundry build {bundle.root} --target onnxruntime'"
        )
    return ",".join(("serve", *known))


def write_dockerfile(bundle: Bundle, folder: Path) -> None:
    """Write the Dockerfile and a copy of the bundle beside it.

    Args:
        bundle: The bundle.
        folder: The build context, empty.

    Raises:
        InputError: The bundle cannot be served in a container, or its name cannot be that of a model.
    """
    name = deployment_name(bundle)
    text = _TEXT.format(
        name=name,
        tag=name.lower(),
        port=_PORT,
        extras=extras_of(bundle),
        health=json.dumps(["python", "-c", _HEALTH.format(port=_PORT)]),
        command=json.dumps(["serve", f"/bundles/{name}.bundle", "--host", "0.0.0.0", "--port", str(_PORT)]),  # noqa: S104  # the container's
    )
    copy_bundle(bundle, folder / f"{name}.bundle")
    write_text(folder / "Dockerfile", text)

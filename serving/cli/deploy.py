"""`diffoundry deploy`: writes the folder that another server opens."""

from pathlib import Path

import click

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.console import out, remark
from diffoundry.runtime.cli.help import Command, options_in
from diffoundry.runtime.cli.options import bundle_argument
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.suggest import did_you_mean
from diffoundry.serving.deploy.deployment import open_deployment

__all__ = ["command"]

_server = options_in("Server")
_output = options_in("Output")

_WRITERS = {
    "triton": "diffoundry.serving.deploy.triton:write_repository",
    "openvino-model-server": "diffoundry.serving.deploy.openvino_model_server:write_model_folder",
    "docker": "diffoundry.serving.deploy.docker:write_dockerfile",
}
"""Server to "module:function", which writes a bundle's deployment into an empty folder."""

_NEXT = {
    "triton": "start it with: tritonserver --model-repository {output}",
    "openvino-model-server": "start it with: ovms --rest_port 8000 --model_name {name} --model_path {output}",
    "docker": "build the image with: docker build -t {name} {output}",
}

_EXAMPLES = (
    "diffoundry deploy emoji.bundle --to triton -o model_repository",
    "diffoundry deploy sd15.bundle --to openvino-model-server -o models/sd15",
    "diffoundry deploy emoji.bundle --to docker -o emoji-image --overwrite",
)


def _known(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Check the name of a server.

    Raises:
        InputError: It is none.
    """
    if value not in _WRITERS:
        raise InputError(f"--to: got {value!r}, expected one of {', '.join(_WRITERS)}.{did_you_mean(value, _WRITERS)}")
    return value


@click.command("deploy", cls=Command, examples=_EXAMPLES)
@bundle_argument
@_server("--to", "kind", required=True, metavar="SERVER", callback=_known, help=f"One of {', '.join(_WRITERS)}.")
@_output("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT", help="Folder to write.")
@_output("--overwrite", is_flag=True, help="Replace the deployment at OUT when the new one is complete.")
def command(bundle: Path, *, kind: str, output: Path, overwrite: bool) -> None:
    """Write a folder that another server opens, with a copy of the bundle DIR.

    triton is a model repository for Triton Inference Server's Python backend, openvino-model-server a model folder for
    OpenVINO Model Server, docker a Dockerfile that runs `diffoundry serve`.
    """
    opened = Bundle(bundle)
    with open_deployment(output, opened, kind, overwrite=overwrite) as folder:
        resolve(_WRITERS[kind])(opened, folder)
    name = opened.root.resolve().name.removesuffix(".bundle").lower()
    remark(_NEXT[kind].format(name=name, output=output))
    out.print(str(output), soft_wrap=True)

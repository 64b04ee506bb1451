"""A model repository for Triton Inference Server's Python backend.

Layout and fields: docs/user_guide/model_repository.md and protobuf/model_config.proto of triton-inference-server.
"""

from pathlib import Path

from diffoundry.runtime import load
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.serving.deploy.deployment import copy_bundle, deployment_name
from diffoundry.serving.deploy.triton_tensors import INPUTS, OUTPUTS, TritonInput, select_inputs

__all__ = ["write_repository"]

_MODEL = '''"""Triton's Python backend for the bundle beside this file. Made by `diffoundry deploy`."""

from pathlib import Path

import triton_python_backend_utils as pb_utils

from diffoundry.serving.deploy.triton_model import TritonPipeline


class TritonPythonModel:
    """The class that Triton looks for."""

    def initialize(self, args):
        """Open the bundle."""
        self.model = TritonPipeline(pb_utils, Path(__file__).resolve().parent / {folder!r}, args)

    def execute(self, requests):
        """Generate the images of each request."""
        return self.model.execute(requests)

    def finalize(self):
        """Free the engines."""
        self.model.close()
'''

_HEAD = """# Made by `diffoundry deploy`. `parameters` may name a target, a precision and a device, as `load` does:
# parameters {{ key: "precision" value {{ string_value: "fp32" }} }}
# and a folder of the LoRAs that `loras` may name, absolute or beside model.py:
# parameters {{ key: "lora_dir" value {{ string_value: "loras" }} }}
name: "{name}"
backend: "python"
max_batch_size: 0
"""

_TAIL = """instance_group { count: 1 kind: KIND_CPU }
"""

_VERSION = "1"


def write_repository(bundle: Bundle, folder: Path) -> None:
    """Write config.pbtxt, model.py and a copy of the bundle: NAME/config.pbtxt, NAME/1/model.py, NAME/1/NAME.bundle.

    Args:
        bundle: The bundle.
        folder: The repository, empty.

    Raises:
        InputError: The bundle makes no images, or transparent ones, or its name cannot be that of a model.
        BundleError, EngineError: It cannot be opened here.
    """
    name = deployment_name(bundle)
    with load(bundle.root) as pipeline:
        if not pipeline.makes_images:
            raise InputError(
                f"--to triton: {bundle.root} ({bundle.pipeline_class}) makes no images, expected a bundle that does"
            )
        if pipeline.transparent:
            raise InputError(
                f"--to triton: {bundle.root} ({bundle.pipeline_class}) makes images with transparency, expected opaque "
                f"ones, of three channels; use --to docker"
            )
        inputs, needed = select_inputs(pipeline), _needed(pipeline)
    unknown = sorted(needed - {one.name for one in INPUTS})
    if unknown:
        raise InputError(
            f"--to triton: {bundle.root} ({bundle.pipeline_class}) takes {', '.join(unknown)}, which Triton's clients "
            f"cannot send to it; use --to docker"
        )
    version = folder / name / _VERSION
    version.mkdir(parents=True)
    copy_bundle(bundle, version / f"{name}.bundle")
    write_text(version / "model.py", _MODEL.format(folder=f"{name}.bundle"))
    texts = [_HEAD.format(name=name), *(_input(one, optional=one.name not in needed) for one in inputs)]
    texts += [_tensor("output", *one) for one in OUTPUTS]
    write_text(folder / name / "config.pbtxt", "".join([*texts, _TAIL]))


def _needed(pipeline: PipelineBase) -> frozenset[str]:
    """Return the inputs without which a call is refused."""
    prompt = {"prompt": "a"} if pipeline.needs_prompt else {}
    try:
        pipeline.check_call(prompt)
    except InputError:
        return frozenset((*prompt, *pipeline.example_inputs))
    return frozenset(prompt)


def _input(one: TritonInput, *, optional: bool) -> str:
    return _tensor("input", one.name, one.kind, one.dims, " optional: true" if optional else "")


def _tensor(field: str, name: str, kind: str, dims: tuple[int, ...], more: str = "") -> str:
    sizes = ", ".join(map(str, dims))
    return f'{field} {{ name: "{name}" data_type: {kind} dims: [ {sizes} ]{more} }}\n'

"""A model folder for OpenVINO Model Server, which runs it with OpenVINO GenAI: `graph.pbtxt` beside `model_index.json`.

Layout and fields: docs/image_generation/reference.md and src/image_gen/image_gen_calculator.proto of
openvinotoolkit/model_server; classes and schedulers: those that OpenVINO GenAI 2026.4 knows.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.manifest import MANIFEST_NAME
from diffoundry.runtime.errors import InputError

__all__ = ["CLASSES", "SCHEDULERS", "write_model_folder"]

CLASSES = (
    "StableDiffusionPipeline",
    "LatentConsistencyModelPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "Flux2KleinPipeline",
)
"""Pipeline classes of `openvino_genai.Text2ImagePipeline`."""

SCHEDULERS = (
    "DDIMScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
)
"""Classes that OpenVINO GenAI builds. It reads the name LMSDiscreteScheduler too, but has no such scheduler."""

_UNET_INPUTS = frozenset(
    ("sample", "timestep", "encoder_hidden_states", "timestep_cond", "text_embeds", "time_ids")
)  # fmt: skip
"""Inputs that OpenVINO GenAI feeds to a UNet."""

_ENGINE = "openvino_model.xml"
_WEIGHTS = "openvino_model.bin"

_GRAPH = """# Made by `diffoundry deploy`. Options of the node: "Efficient Image Generation Serving" in its docs.
input_stream: "HTTP_REQUEST_PAYLOAD:input"
output_stream: "HTTP_RESPONSE_PAYLOAD:output"
node {
  name: "ImageGenExecutor"
  calculator: "ImageGenCalculator"
  input_stream: "HTTP_REQUEST_PAYLOAD:input"
  input_side_packet: "IMAGE_GEN_NODE_RESOURCES:pipes"
  output_stream: "HTTP_RESPONSE_PAYLOAD:output"
  node_options {
    [type.googleapis.com/mediapipe.ImageGenCalculatorOptions] {
      models_path: "./"
      device: "CPU"
    }
  }
}
"""


def write_model_folder(bundle: Bundle, folder: Path) -> None:
    """Write graph.pbtxt and copy what OpenVINO GenAI opens: configs, tokenizers, and OpenVINO's engines.

    Args:
        bundle: The bundle.
        folder: The model's folder, empty.

    Raises:
        InputError: OpenVINO GenAI does not know the pipeline class or the scheduler, or a network lacks its engine.
    """
    _check_names(bundle)
    _check_engines(bundle)
    for name in _files(bundle):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.root / name, folder / name)
    write_text(folder / "graph.pbtxt", _GRAPH)


def _check_names(bundle: Bundle) -> None:
    if bundle.pipeline_class not in CLASSES:
        raise _refusal(f"{bundle.root} is a {bundle.pipeline_class}, but OpenVINO GenAI runs only {', '.join(CLASSES)}")
    scheduler = str(bundle.read_object("scheduler/scheduler_config.json").get("_class_name"))
    if scheduler not in SCHEDULERS:
        raise InputError(
            f"--to openvino-model-server: {bundle.root} has the scheduler {scheduler}, but OpenVINO GenAI runs only "
            f"{', '.join(SCHEDULERS)}; choose one with 'diffoundry set {bundle.root} scheduler=NAME'"
        )


def _check_engines(bundle: Bundle) -> None:
    if bundle.manifest is None:
        raise _refusal(f"{bundle.root} has no OpenVINO engines")
    for name, component in bundle.manifest.components.items():
        place = f"{name}/{_ENGINE}"
        engines = [one for one in component.engines if one.target == "openvino" and place in one.files]
        if not engines or engines[0].parts:
            raise InputError(
                f"--to openvino-model-server: {name} of {bundle.root} has no {_ENGINE}; add it with 'diffoundry build "
                f"{bundle.root} --target openvino', or export without --partition and --split"
            )
        more = {one.name for one in engines[0].inputs} - _UNET_INPUTS
        if name == "unet" and more:
            raise _refusal(f"OpenVINO GenAI cannot feed {', '.join(sorted(more))} to the UNet of {bundle.root}")


def _refusal(fault: str) -> InputError:
    return InputError(f"--to openvino-model-server: {fault}; use --to triton or --to docker")


def _files(bundle: Bundle) -> Iterator[str]:
    """Name the files that are no graph or engine of another target, and no checksums, which would not fit any more."""
    if bundle.manifest is None:
        return
    components = bundle.manifest.components
    built = {file for one in components.values() for file in one.all_files}
    kept = {f"{name}/{file}" for name in components for file in (_ENGINE, _WEIGHTS)}
    for name in bundle.manifest.files:
        apart = name.endswith((".onnx", ".onnx_data")) or name == MANIFEST_NAME
        if name in kept or (name not in built and not apart):
            yield name

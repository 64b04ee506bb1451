"""A pipeline behind Triton's Python backend. Imports NumPy, Pillow and the runtime; engines bring their own library."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from diffoundry.runtime import load
from diffoundry.runtime.dispatch.loras import RequestLoras
from diffoundry.runtime.errors import DiffoundryError, InputError
from diffoundry.serving.deploy.triton_tensors import LORAS, select_inputs
from diffoundry.serving.lora_folder import LoraFolder
from diffoundry.serving.place_images import group_image_prompts

__all__ = ["TritonPipeline"]

_ENGINE = ("target", "precision", "device")
"""Parameters of config.pbtxt that choose the engine, named as the arguments of `load`."""

_LORA_DIR = "lora_dir"
"""Parameter of config.pbtxt: folder of the LoRAs that clients may name. Relative paths begin beside `model.py`."""

_PARAMETERS = (*_ENGINE, _LORA_DIR)


class TritonPipeline:
    """Answers the requests of one model instance, one after another.

    Attributes:
        pipeline: The pipeline of the bundle.
    """

    def __init__(self, utils: Any, bundle: Path, arguments: Mapping[str, str]) -> None:
        """Open the bundle.

        Args:
            utils: The module `triton_python_backend_utils`.
            bundle: Folder of the bundle.
            arguments: Those of `TritonPythonModel.initialize`.

        Raises:
            InputError: config.pbtxt has a parameter that nothing reads, or its folder of LoRAs is none.
            BundleError, EngineError: The bundle cannot be opened.
        """
        self._utils = utils
        config = json.loads(arguments["model_config"])
        chosen = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        for name in chosen:
            if name not in _PARAMETERS:
                raise InputError(f"config.pbtxt: got the parameter {name!r}, expected one of {', '.join(_PARAMETERS)}")
        folder = bundle.parent / chosen.pop(_LORA_DIR) if _LORA_DIR in chosen else None
        if folder is not None and not folder.is_dir():
            raise InputError(f"config.pbtxt: {_LORA_DIR} names {folder}, which is no folder; make it, or leave it out")
        self._folder, self._loras = LoraFolder(folder, option=f"{_LORA_DIR} of config.pbtxt"), RequestLoras()
        self.pipeline = load(bundle, **chosen)
        self._inputs = select_inputs(self.pipeline)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response for each request. An error ends its own request only."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Free the engines."""
        self.pipeline.close()

    def _answer(self, request: Any) -> Any:
        kinds = self._utils.TritonError
        try:
            return self._generate(request)
        except InputError as error:
            return self._refuse(str(error), kinds.INVALID_ARG)
        except DiffoundryError as error:
            return self._refuse(str(error), kinds.INTERNAL)

    def _generate(self, request: Any) -> Any:
        arguments: dict[str, Any] = {}
        for one in self._inputs:
            tensor = self._utils.get_input_tensor_by_name(request, one.name)
            if tensor is not None:
                arguments[one.name] = one.read(one.name, tensor.as_numpy())
        if "ip_adapter_image" in arguments:
            arguments["ip_adapter_image"] = group_image_prompts(self.pipeline, arguments["ip_adapter_image"])
        chosen = self._loras.check(self.pipeline, self._folder.choose(arguments.pop(LORAS, [])))
        self.pipeline.check_call({"prompt": None, **arguments})  # before LoRAs are loaded
        self._loras.apply(cast("Any", self.pipeline), chosen)
        run = self.pipeline.start(**arguments)
        for _ in run:
            if request.is_cancelled():
                run.cancel()
                return self._refuse("the client cancelled the request", self._utils.TritonError.CANCELLED)
        result = run.finish()
        images = np.stack([np.asarray(image.convert("RGB")) for image in result.images])
        outputs = [self._utils.Tensor("images", images)]
        if isinstance(result.seed, int):
            outputs.append(self._utils.Tensor("seed", np.array([result.seed], np.int64)))
        return self._utils.InferenceResponse(output_tensors=outputs)

    def _refuse(self, sentence: str, kind: Any) -> Any:
        return self._utils.InferenceResponse(output_tensors=[], error=self._utils.TritonError(sentence, kind))

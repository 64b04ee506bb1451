"""The model repository for Triton: read with Triton's own protobuf, and its Python model run as Triton runs it."""

import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import triton_stub as utils
from google.protobuf import json_format, text_format
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.group import group
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.serving.deploy.triton import write_repository
from diffoundry.serving.deploy.triton_model import TritonPipeline
from diffoundry.serving.deploy.triton_tensors import INPUTS


def _import_model_config():
    """Triton's model_config.proto; its package would import gRPC."""
    folder = Path(importlib.util.find_spec("tritonclient").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("model_config_pb2", folder / "grpc/model_config_pb2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


ModelConfig = _import_model_config()

_TYPES = {"TYPE_UINT8": np.uint8, "TYPE_INT64": np.int64}


@pytest.fixture(scope="module")
def repository(emoji, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "repository"
    group.main(["deploy", str(emoji), "--to", "triton", "-o", str(folder)], standalone_mode=False)
    return folder


@pytest.fixture(scope="module")
def config(repository):
    text = (repository / "emoji/config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, ModelConfig())


@pytest.fixture(scope="module")
def model(repository, config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", utils)
        spec = importlib.util.spec_from_file_location("triton_model", repository / "emoji/1/model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    found = module.TritonPythonModel()
    found.initialize(_arguments(repository, config))
    yield found
    found.finalize()


def _arguments(repository, config):
    text = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return {"model_config": text, "model_repository": str(repository / "emoji"), "model_version": "1"}


def _request(leaves_after=None, **values):
    kinds = {"TYPE_STRING": np.object_, "TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_INT64": np.int64}
    inputs = {}
    for name, value in values.items():
        (kind,) = (one.kind for one in INPUTS if one.name == name)
        one = value.encode() if isinstance(value, str) else value
        whole = isinstance(value, np.ndarray)
        inputs[name] = value if whole else np.array([one], kinds.get(kind, np.int32))
    return utils.InferenceRequest(inputs, leaves_after)


def _outputs(response, config):
    """Return the outputs by name, after the checks of config.pbtxt."""
    assert not response.has_error(), response.error().message()
    arrays = {one.name(): one.as_numpy() for one in response.output_tensors()}
    for declared in config.output:
        array = arrays[declared.name]
        assert array.dtype == _TYPES[type(declared).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[
            declared.data_type].name]  # fmt: skip
        assert len(array.shape) == len(declared.dims)
        assert all(size in (-1, real) for size, real in zip(declared.dims, array.shape, strict=True))
    return arrays


def test_the_layout_and_the_configuration_are_those_of_triton(repository, config):
    assert config.name == "emoji"
    assert (config.backend, config.max_batch_size) == ("python", 0)
    assert {path.name for path in (repository / "emoji/1").iterdir()} == {"model.py", "emoji.bundle"}
    assert [one.name for one in config.input if not one.optional] == ["prompt"]
    assert {one.name for one in config.input} == {one.name for one in INPUTS if "control" not in one.name} - {
        "guess_mode", "adapter_image", "adapter_conditioning_scale", "ip_adapter_image", "ip_adapter_scale",
    }  # fmt: skip


def test_images_are_those_of_generate_bit_for_bit(model, config, emoji, tmp_path):
    settings = ["--seed", "3", "--steps", "3", "--guidance-scale", "7.1", "--scheduler", "euler_a"]
    words = ["generate", str(emoji), "red apple", *settings, "--negative-prompt", "blue", "-o", str(tmp_path / "a.png")]
    group.main(words, standalone_mode=False)
    values = {"seed": 3, "num_inference_steps": 3, "guidance_scale": 7.1, "scheduler": "euler_a"}
    wrong = _request(prompt="red apple", num_inference_steps=0)
    asked = _request(prompt="red apple", negative_prompt="blue", **values)
    refused, answer = model.execute([wrong, asked])
    outputs = _outputs(answer, config)
    np.testing.assert_array_equal(outputs["images"][0], np.asarray(Image.open(tmp_path / "a.png")))
    assert outputs["seed"].tolist() == [3]
    assert asked.asked == 3
    assert refused.error().code() == utils.TritonError.INVALID_ARG
    assert refused.error().message().startswith("num_inference_steps: got 0, expected")


def test_images_start_from_an_image_with_a_mask(model, config):
    start = np.asarray(Image.effect_noise((64, 64), 90).convert("RGB"))
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    values = {"seed": 0, "num_inference_steps": 4, "strength": 0.5}
    request = _request(prompt="ghost", image=start, mask_image=mask, num_images_per_prompt=2, **values)
    images = _outputs(model.execute([request])[0], config)["images"]
    shown = {"image": Image.fromarray(start), "mask_image": Image.fromarray(mask)}
    expected = model.model.pipeline("ghost", **shown, num_images_per_prompt=2, **values).images
    np.testing.assert_array_equal(images, np.stack([np.asarray(one) for one in expected]))


def test_a_client_that_leaves_ends_its_run_within_a_step(model):
    request = _request(prompt="ghost", num_inference_steps=8, leaves_after=2)
    (answer,) = model.execute([request])
    assert request.asked == 2
    assert answer.error().code() == utils.TritonError.CANCELLED
    assert answer.error().message() == "the client cancelled the request"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": np.array([b"\xff"], np.object_)}, "prompt: got bytes that are no UTF-8, expected a text in UTF-8"),
        ({"prompt": np.array([b"a", b"b"], np.object_)}, "prompt: got 2 values, expected one"),
        (
            {"prompt": "a", "image": np.zeros((8, 8), np.uint8)},
            "image: got the shape (8, 8), expected (height, width, 3)",
        ),
        (
            {"prompt": "a", "loras": np.array([b"\xff"], np.object_)},
            "loras: got bytes that are no UTF-8, expected a text in UTF-8",
        ),
        (
            {"prompt": "a", "mask_image": np.zeros((8, 8, 1), np.uint8)},
            "mask_image: got the shape (8, 8, 1), expected (height, width)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(model, values, message):
    (answer,) = model.execute([_request(**values)])
    assert answer.error().code() == utils.TritonError.INVALID_ARG
    assert answer.error().message() == message


def test_an_unknown_parameter_of_the_configuration_is_refused(model, repository, config):
    changed = ModelConfig()
    changed.CopyFrom(config)
    changed.parameters["precison"].string_value = "fp32"
    with pytest.raises(InputError, match=r"config\.pbtxt: got the parameter 'precison', expected one of target, prec"):
        type(model)().initialize(_arguments(repository, changed))


def test_the_model_imports_no_framework(repository, config):
    code = (
        "import json, sys, triton_stub\n"
        "sys.modules['triton_python_backend_utils'] = triton_stub\n"
        "import model\n"
        "one = model.TritonPythonModel()\n"
        "one.initialize(json.loads(sys.argv[1]))\n"
        "print([name for name in ('torch', 'diffusers', 'onnx', 'click', 'starlette') if name in sys.modules])\n"
    )
    folders = [repository / "emoji/1", Path(utils.__file__).parent]
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in folders]!r}\n{code}"
    command = [sys.executable, "-c", code, json.dumps(_arguments(repository, config))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def _deployed(bundle, folder, **parameters):
    """Return the model of a bundle in its repository, as Triton opens it, and its configuration."""
    write_repository(Bundle(bundle), folder)
    (place,) = folder.iterdir()
    config = text_format.Parse((place / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    opened = TritonPipeline(utils, next((place / "1").glob("*.bundle")), _arguments(folder, config))
    return opened, config


@pytest.mark.slow
def test_images_of_networks_reach_them(controlled_bundle, image_prompt_bundle, tmp_path):
    """A control image of one ControlNet, and image prompts of two IP-Adapters, as in a call."""
    noise = np.asarray(Image.effect_noise((64, 64), 90).convert("RGB"))
    both = np.stack([noise, noise[::-1]])
    few = {"seed": 3, "num_inference_steps": 2, "height": 64, "width": 64}
    control = {"control_image": noise[None], "controlnet_conditioning_scale": np.float32([0.7]), "guess_mode": True}
    prompts = {"ip_adapter_image": both, "ip_adapter_scale": np.float32([0.4, 0.8])}
    for bundle, sent, called in (
        (
            controlled_bundle(),
            control,
            {"control_image": Image.fromarray(noise), "controlnet_conditioning_scale": 0.7, "guess_mode": True},
        ),
        (
            image_prompt_bundle(),
            prompts,
            {"ip_adapter_image": [Image.fromarray(one) for one in both], "ip_adapter_scale": [0.4, 0.8]},
        ),
    ):
        model, config = _deployed(bundle, tmp_path / bundle.name, precision="fp32", target="onnxruntime")
        images = _outputs(model.execute([_request(prompt="a cat", **few, **sent)])[0], config)["images"]
        expected = model.pipeline("a cat", **few, **called).images[0]
        np.testing.assert_array_equal(images[0], np.asarray(expected))
        assert [one.name for one in config.input if not one.optional] == ["prompt"]
        model.close()


def test_a_request_has_its_own_loras(emoji, tmp_path):
    lora = str(files("diffoundry_models") / "emoji-flat/pytorch_lora_weights.safetensors")
    (tmp_path / "loras").mkdir()
    shutil.copyfile(lora, tmp_path / "loras/flat.safetensors")
    model, config = _deployed(emoji, tmp_path / "repository", lora_dir=str(tmp_path / "loras"))
    few = {"prompt": "red apple", "seed": 3, "num_inference_steps": 2}

    def ask(*loras):
        given = {"loras": np.array([one.encode() for one in loras], np.object_)} if loras else {}
        return model.execute([_request(**few, **given)])[0]

    plain, flat, again = (_outputs(ask(*loras), config)["images"] for loras in ((), ("flat:0.5",), ()))
    np.testing.assert_array_equal(plain, again)
    with load(emoji) as pipe:
        pipe.loras.load(lora, scale=0.5)
        expected = np.asarray(pipe(**few).images[0])
    np.testing.assert_array_equal(flat[0], expected)
    assert ask("round").error().message() == "loras: got 'round', expected one of flat."
    model.close()
    model, _ = _deployed(emoji, tmp_path / "other")
    assert model.execute([_request(**few, loras=np.array([b"flat"], np.object_))])[0].error().message() == (
        "loras: got 'flat', expected none: the operator allows no LoRAs (lora_dir of config.pbtxt)."
    )
    model.close()
    with pytest.raises(InputError, match=r"config.pbtxt: lora_dir names .*/missing, which is no folder; make it, or"):
        _deployed(emoji, tmp_path / "third", lora_dir="missing")


def test_a_bundle_with_inputs_that_clients_cannot_send_is_refused(emoji, tmp_path, monkeypatch):
    def refuse(*_):
        raise InputError("hint: got none")

    monkeypatch.setattr(DiffusionPipeline, "example_inputs", ("hint",))
    monkeypatch.setattr(DiffusionPipeline, "check_call", refuse)
    with pytest.raises(InputError, match=r"--to triton: .* takes hint, which Triton's clients cannot send to it; use"):
        write_repository(Bundle(emoji), tmp_path)

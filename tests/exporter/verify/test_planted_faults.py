"""Faults too small for the gates, or in files that no engine reads: a verification still finds and names each one."""

import json
import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.runtime.engines.protocol import EngineOptions

TEXT, UNET = "text_encoder/model.onnxruntime.onnx", "unet/model.onnxruntime.onnx"
ENCODER, DECODER = "vae_encoder/model.onnxruntime.onnx", "vae_decoder/model.onnxruntime.onnx"
ADAPTERS = "unet/model.onnxruntime.adapters.onnx"


def _epsilon(file: str, place: int, factor: float) -> Callable:
    """Multiply the epsilon of one of the normalizations of a graph."""

    def plant(bundle):
        graph = onnx.load(bundle.path / file, load_external_data=False)
        found = [a for node in graph.graph.node for a in node.attribute if a.name == "epsilon" and a.f > 0]
        found[place].f *= factor
        onnx.save(graph, bundle.path / file)

    return plant


def _constant_epsilon(file: str, factor: float) -> Callable:
    """Multiply the epsilon that the normalizations of a VAE's engine share, which sum by rows."""

    def plant(bundle):
        graph = onnx.load(bundle.path / file, load_external_data=False)
        added = {name for node in graph.graph.node if node.op_type == "Add" for name in node.input}
        (tensor,) = (t for t in graph.graph.initializer if t.name.startswith("float32_") and t.name in added)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
        onnx.save(graph, bundle.path / file)

    return plant


def _zeros(file: str, ending: str) -> Callable:
    def plant(bundle):
        graph = onnx.load(bundle.path / file, load_external_data=False)
        tensor = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith(ending))
        shape = tuple(tensor.dims)
        tensor.CopyFrom(numpy_helper.from_array(np.zeros(shape, np.float32), tensor.name))
        onnx.save(graph, bundle.path / file)

    return plant


def _json(file: str, change: Callable) -> Callable:
    def plant(bundle):
        path = bundle.path / file
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")

    return plant


def _swap_merges(data):
    merges = data["model"]["merges"]
    merges[0], merges[200] = merges[200], merges[0]


def _lose_merge(data):
    del data["model"]["merges"][-1]


def _swap_words(data):
    vocabulary = data["model"]["vocab"]
    one, other = list(vocabulary)[-3], list(vocabulary)[-5]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def _line(bundle):
    path = bundle.path / "tokenizer/merges.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[7], lines[9] = lines[9], lines[7]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _added_tokens(bundle):
    name = "tokenizer/added_tokens.json"
    (bundle.path / name).write_text('{"a red apple": 5000}', encoding="utf-8")
    _json("diffoundry.json", lambda data: data["files"].update({name: {}}))(bundle)


def _engine(component: str, change: Callable) -> Callable:
    return _json("diffoundry.json", lambda data: change(data["components"][component]["engines"][0]))


def _forget_layer(engine):
    engine["adapters"]["layers"].popitem()


PLANTED = {
    "first epsilon, UNet": (_epsilon(UNET, 0, 10), r"^unet/.*runtime.onnx: .*epsilon 0.0001,"),
    "last epsilon, UNet": (_epsilon(UNET, -1, 0.1), r"^unet/.*runtime.onnx: .*epsilon 1e-06,"),
    "epsilon, text": (
        _epsilon(TEXT, 2, 0.1),
        r"^text_encoder/.*runtime.onnx: .*epsilon",
    ),
    "epsilon, decoder": (
        _constant_epsilon(DECODER, 0.1),
        r"^vae_decoder/.*runtime.onnx: .*epsilon",
    ),
    "epsilon, encoder": (
        _constant_epsilon(ENCODER, 10),
        r"^vae_encoder/.*runtime.onnx: .*epsilon",
    ),
    "epsilon of tokens, decoder": (_epsilon(DECODER, 0, 10), r"^vae_decoder/.*runtime.onnx: .*epsilon"),
    "epsilon, portable": (_epsilon("unet/model.onnx", 0, 10), r"^unet/model.onnx: .*epsilon 0.0001, expected 1e-05"),
    "epsilon, adapters": (_epsilon(ADAPTERS, 3, 10), r"^unet/.*adapters.onnx: .*epsilon"),
    "bias, portable": (_zeros("unet/model.onnx", "conv_out.bias"), "^unet/model.onnx: .*conv_out.bias: 4 of 4 weights"),
    "bias, portable, outputs": (
        _zeros("vae_decoder/model.onnx", "conv_out.bias"),
        "^vae_decoder/model.onnx: .*sample: ",
    ),
    "bias, adapters": (
        _zeros(ADAPTERS, "conv_in.bias"),
        "^unet/.*adapters.onnx: .*conv_in.bias: ",
    ),
    "layer without adapters": (_engine("text_encoder", _forget_layer), "^text_encoder, .*field adapters of"),
    "options": (
        _engine("vae_encoder", lambda e: e["options"].update(x=1)),
        "^vae_encoder, .*field options of the",
    ),
    "merges swapped": (
        _json("tokenizer/tokenizer.json", _swap_merges),
        r"^tokenizer: .*tokenizer.json: .*model.merges",
    ),
    "merge lost": (_json("tokenizer/tokenizer.json", _lose_merge), r"^tokenizer: .*tokenizer.json: .*model.merges"),
    "words swapped": (_json("tokenizer/tokenizer.json", _swap_words), r"^tokenizer, \d+ words: .* words differ"),
    "merges.txt": (_line, "^tokenizer: .*merges.txt: 8: got "),
    "vocab.json": (
        _json("tokenizer/vocab.json", lambda v: v.update({"a</w>": 5})),
        "^tokenizer: .*vocab.json: a</w>: got 5, ",
    ),
    "option of other schedulers": (
        _json("scheduler/scheduler_config.json", lambda data: data.update(use_karras_sigmas=True)),
        "^scheduler DDIMScheduler: .*use_karras_sigmas: got True, expected None",
    ),
    "another tokenizer file": (_added_tokens, "^tokenizer: .*added_tokens.json: the checkpoint has no such file"),
    "pipeline class": (
        _json("model_index.json", lambda data: data.update(_class_name="StableDiffusionImg2ImgPipeline")),
        "_class_name: got 'StableDiffusionImg2ImgPipeline', expected 'StableDiffusionPipeline'",
    ),
    "sizes": (
        _json("diffoundry.json", lambda data: data["recipe"]["dims"]["height"].update(max=64)),
        "height of the recipe is 8 to 64 in steps of 8, text_encoder was exported for 8 to any size in steps of 8",
    ),
    "network": (
        _json("diffoundry.json", lambda data: data["components"]["vae_encoder"].update(network="AutoencoderTiny")),
        "vae_encoder.network: got 'AutoencoderTiny', expected 'AutoencoderKL'",
    ),
}
"""Name to a function that plants the fault, and a pattern of the failed check."""

QUICK = VerifyRequest(prompts=("red apple",), steps=1, options=EngineOptions(threads=1))


def _faults(bundle) -> list[str]:
    report = verify(bundle.path, request=QUICK)
    return [f"{check.subject}: {check.measured}" for check in report.all_checks if not check.passed]


def test_planted_faults_are_found_and_named(copied):
    """One bundle holds all faults: each has a check of its own that names it."""
    for plant, _ in PLANTED.values():
        plant(copied)
        copied.seal()
    found = _faults(copied)
    missed = [name for name, (_, text) in PLANTED.items() if not any(re.search(text, fault) for fault in found)]
    assert missed == [], found


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_alone_is_found(copied, name):
    plant, text = PLANTED[name]
    plant(copied)
    copied.seal()
    found = _faults(copied)
    assert any(re.search(text, fault) for fault in found), found

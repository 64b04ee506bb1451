"""FLUX.2 dev against diffusers' own pipeline on tiny random checkpoints, after every step."""

import inspect
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from PIL.Image import fromarray
from system_pair import compare_system
from tiny_flux_2 import WIDTH, make_dev

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.families import flux_2 as exporter_family
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.exporter.verify.run import verify
from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.families import flux_2 as runtime_family

pytestmark = pytest.mark.slow

LAYERS = 0, 1, 2
"""Hidden states that tests read: those of diffusers' defaults take 30 layers, which are traced in slow tests."""

GENERATOR = np.random.default_rng(0)


def noise(height, width):
    return fromarray(GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8))


FEW = {"height": 16, "width": 24, "max_sequence_length": 300, "num_inference_steps": 3}


def open_dev(folder):
    """Open diffusers' pipeline with the tokenizer itself; its processor, which needs torchvision, calls this one."""
    return reference_pipeline(open_checkpoint(str(folder)))


@pytest.fixture(scope="module", autouse=True)
def _few_layers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter_family, "DEV", exporter_family.declare_dev(LAYERS))
        patch.setattr(runtime_family, "DEV_LAYERS", LAYERS)
        yield


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("flux-2-dev-short", lambda folder: make_dev(folder, layers=3))


@pytest.fixture(scope="module")
def bundle(exported, folder):
    return exported(folder, target="onnxruntime,openvino")


@pytest.fixture(scope="module")
def theirs(folder):
    return open_dev(folder)


def compare(ours, theirs, **arguments):
    return compare_system(
        ours, theirs, theirs_only={"text_encoder_out_layers": LAYERS}, **{"prompt": "a cat", **FEW, **arguments}
    )


TWO = ["a Cat's [IMG] 123 cafés\r\n", "a red apple on the table, ünïcödé " * 30]
CASES = {
    "several, one cut off": {"prompt": TWO, "num_images_per_prompt": 2, "guidance_scale": 3.0, "height": 40},
    "an image": {"image": noise(70, 101), "guidance_scale": 1.0},
    "images": {"prompt": TWO, "image": [noise(64, 80), noise(80, 66)], "height": None, "width": None},
    "sigmas": {"sigmas": [1.0, 0.6, 0.2], "max_sequence_length": 512},
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(bundle, theirs, target):
    ours = load(bundle, target=target)
    for case in CASES if target == "onnxruntime" else ("several, one cut off",):
        compare(ours, theirs, **CASES[case])


def test_padding_is_what_diffusers_computes(bundle, theirs):
    """Tokens to the left of a prompt see nothing; the transformer reads their states too."""
    ours = load(bundle, target="onnxruntime")
    states, _ = ours.family._encode(["a cat", TWO[1]], 300)
    expected = theirs.encode_prompt(["a cat", TWO[1]], max_sequence_length=300, text_encoder_out_layers=LAYERS)[0]
    np.testing.assert_allclose(states, expected.detach(), atol=1e-5 * expected.abs().max().item())
    assert np.abs(states[0, 0]).max() > 0
    assert ours(TWO[1], num_inference_steps=1, height=16, width=16, max_sequence_length=300).truncated[0]


def test_the_message_of_the_system_is_diffusers():
    assert runtime_family.SYSTEM_MESSAGE == SYSTEM_MESSAGE


def test_embeddings_and_a_transformer_without_guidance(exported, system_checkpoint):
    folder = system_checkpoint("flux-2-dev-free", lambda folder: make_dev(folder, layers=3, guided=False))
    ours, theirs = load(exported(folder)), open_dev(folder)
    embeds = np.random.default_rng(1).standard_normal((2, 7, 3 * WIDTH)).astype(np.float32)
    compare_system(
        ours, theirs, height=16, width=16, num_inference_steps=2, guidance_scale=3.0,
        ours_only={"prompt_embeds": embeds}, theirs_only={"prompt_embeds": torch.from_numpy(embeds)},
    )  # fmt: skip


def test_defaults_are_diffusers(bundle):
    ours = load(bundle, target="onnxruntime")
    assert ours.default_size == (256, 256), "128 latents, each of 2 pixels"
    for argument, parameter in inspect.signature(diffusers.Flux2Pipeline.__call__).parameters.items():
        own = ours.family.Inputs.__dataclass_fields__.get(argument)
        if argument in ours.family.defaults["editing"]:
            assert ours.family.defaults["editing"][argument] == parameter.default, argument
        elif own is not None:
            assert own.default == parameter.default, argument


def test_what_diffusers_lacks_is_refused(bundle):
    ours = load(bundle, target="onnxruntime")
    with pytest.raises(InputError, match=r"negative_prompt: got one, expected none: FLUX.2 dev is guided by guidance"):
        ours.start("a cat", negative_prompt="blue")
    with pytest.raises(InputError, match="max_sequence_length: got 513"):
        ours.start("a cat", max_sequence_length=513)


def test_the_chat_is_rendered_without_its_first_token(bundle):
    """The tokenizer writes that one."""
    chat = json.loads((bundle / "tokenizer/chat_prompt.json").read_text())
    assert chat == {"prefix": f"[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]", "suffix": "[/INST]"}


@pytest.mark.slow
def test_the_published_layers_pass_a_verification(exported, system_checkpoint, monkeypatch):
    monkeypatch.setattr(exporter_family, "DEV", exporter_family.declare_dev((10, 20, 30)))
    monkeypatch.setattr(runtime_family, "DEV_LAYERS", (10, 20, 30))
    bundle = exported(system_checkpoint("flux-2-dev", make_dev))
    report = verify(bundle, request=VerifyRequest(prompts=("a cat",), steps=2))
    assert report.passed, [check for check in report.checks if not check.passed]

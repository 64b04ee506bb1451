"""Calibration from a bundle to a recipe, on a tiny pipeline and on the embedded model."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import Budget, judge, mean_square
from diffoundry.calibration.ranges import read_ranges
from diffoundry.exporter.calibrate.calibrate import STATE, calibrate
from diffoundry.exporter.calibrate.engine_proxies import FixedEngines
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.generation_tasks import PromptTask
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.steps.convert_precision import make_graph
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.targets.base import PrecisionFormat
from diffoundry.targets.onnxruntime.run.engine import OnnxRuntimeEngine

ORT = PrecisionFormat(weights="int8", activations="uint8", outputs=True)
TRT = PrecisionFormat(weights="int8", activations="int8")
INT4 = PrecisionFormat(weights="int4", block=16)
FP16 = PrecisionFormat(floats="fp16")


def few_images(**options) -> QuantizationRequest:
    """Three images to calibrate with and two to judge by, in three steps."""
    small = {"prompts": ("red apple", "cat face", "rocket"), "held_out": ("pizza", "crown"), "steps": 3, "threads": 1}
    return QuantizationRequest(**{**small, **options})


@dataclass(frozen=True)
class Calibrated:
    """A calibrated bundle, not to be written into."""

    folder: Path
    choice: QuantizationChoice
    messages: list[str]


@pytest.fixture(scope="module", params=[(ORT,), (ORT, TRT)], ids=["one target", "two targets"])
def calibrated(request, exported, tiny_sd_checkpoint, tmp_path_factory) -> Calibrated:
    """int8, also for two targets at once, within a budget that takes a search."""
    folder = tmp_path_factory.mktemp("calibrated") / "tiny.bundle"
    shutil.copytree(exported(tiny_sd_checkpoint("sd1-small")), folder)
    messages: list[str] = []
    asked = few_images(budget=Budget(min_psnr=20))
    choice = calibrate(folder, asked, {"int8": list(request.param)}, messages.append)["int8"]
    return Calibrated(folder, choice, messages)


@pytest.mark.slow_cases("two targets")
def test_int8_of_a_tiny_pipeline(calibrated):
    tiny_folder, choice, messages = calibrated.folder, calibrated.choice, calibrated.messages
    assert set(choice.components) == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    assert choice.psnr >= 20
    assert choice.worst_psnr <= choice.psnr
    assert (choice.prompts, choice.held_out, choice.min_psnr) == (3, 2, 20)
    assert choice.budget == "image PSNR of at least 20 dB"
    for name, part in choice.components.items():
        assert part.quantized
        graph = ir.load(tiny_folder / name / "model.onnx").graph
        expected = [site.name for site in quantizable(graph) if site.activation is not None]
        assert sorted((*part.quantized, *part.kept)) == sorted(expected)
        assert read_ranges(tiny_folder, name).tensors
    assert len(read_ranges(tiny_folder, "unet").tensors["sample"].step_low) == 4, "PNDM calls it once more than asked"
    assert not (tiny_folder / STATE).exists()
    assert not list(tiny_folder.rglob("calibrating-*"))
    assert any("left" in words for words in messages)


@pytest.mark.slow_cases("two targets")
def test_the_recipe_makes_the_same_graphs_again_for_any_target(calibrated):
    tiny_folder, choice = calibrated.folder, calibrated.choice
    assert any(part.kept for part in choice.components.values())
    again = from_json(QuantizationChoice, json.loads(json.dumps(to_json(choice))))
    assert again == choice
    for form in (ORT, TRT, PrecisionFormat(weights="int8", activations="int8", floats="fp16")):
        first, second = (
            ir.to_proto(
                ir.external_data.load_to_model(
                    make_graph(ir.load(tiny_folder / "unet/model.onnx"), form, recipe, tiny_folder, "unet")
                )
            ).SerializeToString(deterministic=True)
            for recipe in (choice, again)
        )
        assert first == second


@pytest.mark.slow
def test_calibration_is_deterministic(tiny_folder, tmp_path):
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other.bundle"))
    asked = few_images(budget=Budget(min_psnr=35))
    first, second = (calibrate(folder, asked, {"int8": [TRT]}) for folder in (tiny_folder, other))
    assert first == second
    for path in (tiny_folder / "calibration").iterdir():
        assert path.read_bytes() == (other / "calibration" / path.name).read_bytes()


@pytest.mark.slow
def test_a_budget_in_decibels_is_kept_by_leaving_layers_in_float(tiny_folder):
    loose = calibrate(tiny_folder, few_images(budget=Budget(min_psnr=10)), {"int8": [TRT]})["int8"]
    tight = calibrate(tiny_folder, few_images(budget=Budget(min_psnr=loose.psnr + 6)), {"int8": [TRT]})["int8"]
    assert tight.psnr >= loose.psnr + 6
    kept = {name: cost for part in tight.components.values() for name, cost in part.kept.items()}
    assert 0 < len(kept) < sum(len(part.quantized) for part in loose.components.values())
    assert all(0 < cost < 120 for cost in kept.values())


@pytest.mark.slow
def test_a_budget_in_bytes_is_kept_and_counted_right(tiny_folder):
    unlimited = calibrate(tiny_folder, few_images(budget=Budget(min_psnr=1)), {"int4-weights": [INT4]})["int4-weights"]
    smallest = weights_of(tiny_folder, unlimited, INT4)
    limit = int(smallest * 1.1)
    choice = calibrate(tiny_folder, few_images(budget=Budget(max_size=limit)), {"int4-weights": [INT4]})["int4-weights"]
    assert smallest < weights_of(tiny_folder, choice, INT4) <= limit
    assert choice.psnr > unlimited.psnr
    assert any(part.fallback for part in choice.components.values())


def weights_of(folder: Path, choice: QuantizationChoice, form: PrecisionFormat) -> int:
    """Bytes of all initializers of all graphs of a precision."""
    total = 0
    for name in choice.components:
        graph = make_graph(ir.load(folder / name / "model.onnx"), form, choice, folder, name).graph
        total += sum(value.const_value.nbytes for value in graph.initializers.values())
    return total


def test_a_size_that_cannot_be_met_is_refused_with_the_smallest(tiny_folder):
    with pytest.raises(
        InputError, match=r"max-size: got 1,000 bytes for int8-weights, expected at least [\d,]+: that is"
    ):
        calibrate(
            tiny_folder, few_images(budget=Budget(max_size=1000)), {"int8-weights": [PrecisionFormat(weights="int8")]}
        )


def test_weights_alone_need_no_ranges(tiny_folder):
    choice = calibrate(tiny_folder, few_images(), {"int8-weights": [PrecisionFormat(weights="int8")]})["int8-weights"]
    assert choice.min_psnr == 40  # the default of this precision
    assert not (tiny_folder / "calibration").exists()
    graph = ir.load(tiny_folder / "text_encoder/model.onnx").graph
    tables = {site.name for site in quantizable(graph) if site.activation is None}
    assert tables
    assert tables <= set(choice.components["text_encoder"].quantized)


@pytest.mark.slow
def test_work_done_before_a_kill_is_not_repeated(tiny_folder, monkeypatch):
    forms = {"int8": [TRT], "int4-weights": [INT4]}

    class Killed(BaseException):
        pass

    def kill(*_arguments, **_options):
        raise Killed

    asked = few_images(budget=Budget(min_psnr=5))
    with monkeypatch.context() as patched:
        patched.setattr(
            "diffoundry.exporter.passes.quantize_weights._best_scales", kill
        )  # of int4, after int8 is chosen
        with pytest.raises(Killed):
            calibrate(tiny_folder, asked, forms)
    assert (tiny_folder / STATE / "int8.json").is_file()
    messages: list[str] = []
    found = calibrate(tiny_folder, asked, forms, messages.append)
    assert not any(words.startswith(("observed", "int8:")) for words in messages)
    assert found.keys() == forms.keys()
    assert found["int8"].psnr >= 5


def overflowing(folder: Path) -> set[str]:
    """Make a VAE whose images are the same in fp32 and that fp16 has not the range for, as SDXL's is.

    What a convolution hands to a group norm may have any size: the norm takes it away.
    """
    graph = ir.load(folder / "vae_decoder/model.onnx")
    name = "decoder.up_blocks.1.resnets.0.conv1"
    for part in ("weight", "bias"):
        value = graph.graph.initializers[f"{name}.{part}"]
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1e6), name=value.name)
    ir.external_data.load_to_model(graph)
    save_graph(graph, folder / "vae_decoder")
    return {f"{name}/Conv", "decoder.up_blocks.1.resnets.0.norm2/GroupNormalization"}


@pytest.mark.slow
def test_nodes_beyond_the_range_of_fp16_stay_in_float32_also_in_the_vae(tiny_folder):
    nodes = overflowing(tiny_folder)
    (tiny_folder / "diffoundry.json").unlink()  # a bundle in the making has none
    choice = calibrate(tiny_folder, few_images(), {"fp16": [FP16]})["fp16"]
    assert choice.psnr >= 35
    assert nodes <= set(choice.components["vae_decoder"].float32)
    assert all(choice.components["vae_decoder"].kept[name] == 0 for name in nodes)
    assert len(choice.components["vae_decoder"].float32) < 10
    assert choice.components["unet"].float32 == ()
    graph = make_graph(ir.load(tiny_folder / "vae_decoder/model.onnx"), FP16, choice, tiny_folder, "vae_decoder")
    types = {node.name: node.outputs[0].dtype for node in graph.graph}
    assert {types[name] for name in nodes} == {ir.DataType.FLOAT}
    assert types["decoder.conv_in/Conv"] == ir.DataType.FLOAT16


def test_a_form_with_activations_needs_calibration(tiny_folder):
    model = ir.load(tiny_folder / "unet/model.onnx")
    with pytest.raises(InputError, match=r"component 'unet': got no calibration for the graph form fp32-w-int8-a-int8"):
        make_graph(model, TRT, None, tiny_folder, "unet")


def test_without_a_choice_all_weights_are_quantized(tiny_folder):
    model = ir.load(tiny_folder / "unet/model.onnx")
    expected = sum(1 for _ in quantizable(model.graph))
    make_graph(model, INT4, None, tiny_folder, "unet")
    assert not quantizable(model.graph)
    assert sum(node.op_type == "DequantizeLinear" for node in model.graph) >= expected - 2  # some weights are shared


def test_a_component_without_a_choice_stays_in_float(tiny_folder):
    model = ir.load(tiny_folder / "unet/model.onnx")
    before = [node.op_type for node in model.graph]
    make_graph(model, TRT, QuantizationChoice(components={}), tiny_folder, "unet")
    assert [node.op_type for node in model.graph] == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "calibrate again"),
        ('{"tensors": {}, "format_version": 99}', "got ranges of version 99, expected 1; calibrate again"),
        ('{"tensors": {"x": {"low": "0"}}}', r"\$.tensors.x.low: got '0', expected a number; calibrate again"),
    ],
)
def test_damaged_ranges_are_refused(tmp_path, text, words):
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration/unet.json").write_text(text)
    with pytest.raises(BundleError, match=words):
        read_ranges(tmp_path, "unet")


@pytest.mark.slow
def test_int8_emoji_are_the_emoji(emoji_bundle, tmp_path):
    """The embedded model, with ONNX Runtime's own int8 kernels: trained weights, held-out prompts and seeds."""
    folder = Path(shutil.copytree(emoji_bundle, tmp_path / "emoji.bundle"))
    asked = few_images(
        prompts=("a fox", "a castle", "a violin"), held_out=("a robot", "a rose", "a doughnut"), steps=10
    )
    choice = calibrate(folder, asked, {"int8": [ORT]})["int8"]
    assert choice.psnr >= 30
    assert all(part.quantized and not part.kept for part in choice.components.values())
    engines = {}
    for name in ("text_encoder", "unet", "vae_decoder"):
        graph = make_graph(ir.load(folder / name / "model.onnx"), ORT, choice, folder, name)
        save_graph(graph, folder / name, "int8.onnx")
        engines[name] = OnnxRuntimeEngine(folder / name / "int8.onnx", None, EngineOptions(threads=1))
    prompts = [
        SeededPrompt(text=prompt, seed=77 + i) for i, prompt in enumerate(("a turtle", "an umbrella", "a green book"))
    ]
    task, reference = PromptTask(steps=10), FloatReference(folder, PromptTask(steps=10), threads=1)
    generated = task.generate(FixedEngines(Bundle(folder), engines), prompts)
    quality = judge(mean_square(generated, task.generate(reference.floats(), prompts)))
    assert quality.mean >= 30
    assert quality.worst >= 24

"""Bundles broken on purpose: every one fails, in the checks that should see it, even with fitting sums."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.verify import VerifyRequest, report_to_json, verify
from diffoundry.runtime import load
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import BundleError


def _failed(report) -> dict[tuple[str, str], str]:
    """(part, subject) to what was measured, for the checks that failed."""
    assert report.passed == all(check.passed for check in report.all_checks)
    return {(check.part, check.subject): check.measured for check in report.all_checks if not check.passed}


def _subjects(report, part) -> set[str]:
    return {subject for name, subject in _failed(report) if name == part}


def _shift(index):
    """Change one single weight by one standard deviation of its tensor."""

    def edit(array):
        array[index] += array.std()

    return edit


_TEXT = {"last_hidden_state", "pooler_output", "normalized_hidden_states"}


@pytest.mark.slow_cases("vae_decoder*", "text_encoder*")
@pytest.mark.parametrize(
    ("component", "tensor", "index", "outputs"),
    [
        pytest.param("text_encoder", "token_embedding.weight", (4000, 5), _TEXT, marks=pytest.mark.slow),
        ("text_encoder", "layers.1.mlp.fc1.bias", (3,), _TEXT),
        pytest.param("unet", "conv_in.weight", (11, 2, 1, 1), {"out_sample"}, marks=pytest.mark.slow),
        pytest.param(
            "vae_encoder", "encoder.conv_in.weight", (5, 1, 1, 1), {"latent_parameters"}, marks=pytest.mark.slow
        ),
        ("vae_decoder", "decoder.conv_out.weight", (1, 7, 1, 1), {"sample"}),
    ],
)
def test_one_changed_weight_fails_its_component(copied, quick, component, tensor, index, outputs):
    copied.edit_weight(component, tensor, _shift(index))
    report = verify(copied.path, request=quick)
    assert _subjects(report, "component") == {f"{component} {output}" for output in outputs}
    assert _subjects(report, "config") == _subjects(report, "tokenizer") == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"beta_end": 0.01201},
        *(pytest.param(one, marks=pytest.mark.slow) for one in ({"steps_offset": 0}, {"prediction_type": "epsilon"})),
    ],
)
def test_one_changed_scheduler_option_fails(copied, quick, change):
    before = json.loads((copied.path / "scheduler/scheduler_config.json").read_text())
    copied.edit_json("scheduler/scheduler_config.json", **change)
    report = verify(copied.path, request=quick)
    ((name, value),) = change.items()
    assert _failed(report)["config", "scheduler DDIMScheduler"] == f"{name}: got {value!r}, expected {before[name]!r}"
    assert _subjects(report, "component") == set()
    if name == "prediction_type":
        assert _subjects(report, "loop") == {"red apple, seed 0"}
        assert "red apple, seed 0" in _subjects(report, "image")


@pytest.mark.slow
def test_another_scheduler_class_fails(copied, quick):
    copied.edit_json("scheduler/scheduler_config.json", _class_name="EulerDiscreteScheduler")
    measured = _failed(verify(copied.path, request=quick))["config", "scheduler DDIMScheduler"]
    assert measured == "_class_name: got 'EulerDiscreteScheduler', expected 'DDIMScheduler'"


@pytest.mark.slow
def test_an_option_left_out_means_its_default(copied, quick):
    file = copied.path / "scheduler/scheduler_config.json"
    config = json.loads(file.read_text())
    del config["clip_sample_range"], config["_diffusers_version"]
    file.write_text(json.dumps(config))
    copied.seal()
    assert verify(copied.path, request=quick).passed
    del config["beta_end"]
    file.write_text(json.dumps(config))
    copied.seal()
    measured = _failed(verify(copied.path, request=quick))["config", "scheduler DDIMScheduler"]
    assert measured == "beta_end: got 0.02, expected 0.012"


@pytest.mark.slow
def test_a_changed_scaling_factor_fails(copied, quick):
    copied.edit_json("vae_decoder/config.json", scaling_factor=0.7)
    report = verify(copied.path, request=quick)
    assert _failed(report)["config", "vae_decoder"] == "scaling_factor: got 0.7, expected 0.6052020192146301"
    assert _subjects(report, "image") == {"red apple, seed 0"}
    assert _subjects(report, "loop") == set()


@pytest.mark.slow
def test_a_changed_text_encoder_config_fails(copied, quick):
    copied.edit_json("text_encoder/config.json", hidden_act="gelu")
    assert _failed(verify(copied.path, request=quick)) == {
        ("config", "text_encoder"): "hidden_act: got 'gelu', expected 'quick_gelu'"
    }


@pytest.mark.slow
def test_another_padding_token_fails(copied, quick):
    copied.edit_json("tokenizer/tokenizer_config.json", pad_token="<|startoftext|>")
    report = verify(copied.path, request=quick)
    measured = _failed(report)["tokenizer", "tokenizer, 6 texts"]
    assert measured.startswith("4293 at place 4 of 'red apple', expected 4294 (")
    assert _subjects(report, "component") == set()


def test_nan_is_found_wherever_it_shows(copied, quick):
    copied.edit_weight("unet", "conv_out.bias", lambda array: array.fill(np.nan))
    report = verify(copied.path, request=quick)
    failed = _failed(report)
    assert _subjects(report, "component") == {"unet out_sample"}
    assert np.isnan(failed["loop", "red apple, seed 0"])
    assert failed["image", "1 images"] == 0
    assert failed["image", "red apple, seed 0"] == "12288 of 12288 values are NaN or infinite; use a higher precision"
    spelled = json.loads(json.dumps(report_to_json(report), allow_nan=False))
    assert spelled["variants"][0]["loops"][0]["curve"][0]["max_abs"] == "nan"


@pytest.mark.slow
def test_a_decoder_of_zeros_is_seen_as_one_colour(copied, quick):
    for tensor in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        copied.edit_weight("vae_decoder", tensor, lambda array: array.fill(0))
    report = verify(copied.path, request=quick)
    assert "one colour" in _failed(report)["image", "red apple, seed 0"]
    (loop,) = report.variants[0].loops
    assert loop.fault.startswith("the image is one colour (0.5, 0.5, 0.5)")
    assert loop.reference_fault is None
    assert _subjects(report, "component") == {"vae_decoder sample"}


@pytest.mark.parametrize("name", ["unet/model.onnx_data", "scheduler/scheduler_config.json", "tokenizer/merges.txt"])
def test_a_file_changed_without_its_sum_is_refused(copied, quick, name):
    path = copied.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} has SHA-256 .*, expected .*changed after the export"):
        verify(copied.path, request=quick)


@pytest.mark.slow
def test_a_checkpoint_whose_weights_changed_is_named_and_fails(emoji_bundle, tmp_path, quick):
    folder = shutil.copytree(open_checkpoint("emoji").root, tmp_path / "retrained")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.weight"] = weights["conv_in.weight"] * np.float16(1.01)
    save_file(weights, file, {"format": "pt"})
    report = verify(emoji_bundle, Checkpoint.at(folder, name="retrained"), quick)
    assert _subjects(report, "component") == {"unet out_sample"}
    note, _ = report.notes
    assert "the checkpoint retrained is not the one that the bundle was made from" in note
    assert "unet/diffusion_pytorch_model.safetensors" in note
    assert "vae/" not in note


def test_another_model_fails_without_breaking_off(emoji_bundle, tiny_sd_checkpoint, quick):
    report = verify(emoji_bundle, open_checkpoint(str(tiny_sd_checkpoint("sd1"))), quick)
    assert report.notes
    assert _subjects(report, "component") >= {"unet", "text_encoder last_hidden_state", "vae_decoder sample"}
    assert _subjects(report, "config") >= {"scheduler PNDMScheduler", "text_encoder", "unet", "vae_decoder"}
    assert _subjects(report, "loop") == {"red apple, seed 0"}
    assert "red apple, seed 0" in _subjects(report, "image")
    (loop,) = report.variants[0].loops
    assert loop.steps != loop.reference_steps


def _failed_measures(report):
    """Measures of the images that failed."""
    return {check.measure for check in report.all_checks if check.part == "image" and not check.passed}


@pytest.fixture
def shows() -> VerifyRequest:
    """The quickest two images whose reference shows what it should."""
    return VerifyRequest(
        prompts=("red apple", "cat face"), steps=6, guidance_scale=3.0, options=EngineOptions(threads=1)
    )


@pytest.mark.slow
def test_swapped_colours_of_the_decoder_show_something_else(copied, shows):
    def swap(array):
        array[[0, 2]] = array[[2, 0]]

    for tensor in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        copied.edit_weight("vae_decoder", tensor, swap)
    report = verify(copied.path, request=shows)
    assert _failed_measures(report) >= {"PSNR, dB", "mean shift", "same object, %"}
    assert _subjects(report, "loop") == set()


@pytest.mark.slow
def test_a_decoder_that_darkens_by_5_percent_is_a_shift(copied, shows):
    """(x + 1) / 2 times 0.95, in the decoder's own scale of -1 to 1."""
    copied.edit_weight("vae_decoder", "decoder.conv_out.weight", lambda array: array.__imul__(0.95))
    copied.edit_weight("vae_decoder", "decoder.conv_out.bias", lambda array: np.copyto(array, array * 0.95 - 0.05))
    report = verify(copied.path, request=shows)
    assert _failed_measures(report) == {"PSNR, dB", "SSIM", "mean shift"}
    for loop in report.variants[0].loops:
        assert loop.shift > 0.03, "beyond the gate of every precision"
        assert loop.shows == loop.reference_shows == loop.prompt


@pytest.mark.slow
def test_words_that_changed_places_show_another_thing(copied, shows):
    """Two rows of the token embedding are swapped: all weights are there, and every number has its size."""
    words = load(copied.path).text_encoders[0].tokenizer(["apple", "cat"]).input_ids[:, 1]

    def swap(array):
        array[words] = array[words[::-1]]

    copied.edit_weight("text_encoder", "token_embedding.weight", swap)
    report = verify(copied.path, request=shows)
    assert _failed_measures(report) >= {"PSNR, dB", "SSIM", "same object, %"}
    for loop in report.variants[0].loops:
        assert loop.reference_shows == loop.prompt
        assert loop.shows != loop.prompt
    assert report.notes == ()


@pytest.mark.slow
def test_a_reference_that_shows_nothing_yet_is_noted(emoji_bundle, quick):
    report = verify(emoji_bundle, request=quick)
    assert report.passed
    (note,) = report.notes
    assert note.startswith("diffusers' own images show something else for red apple, seed 0 (")
    assert note.endswith("with so few steps or this guidance, the object in an image means little")

"""Resources for Apple's ml-stable-diffusion: names in the folder, tensors of the models, the compiler if installed."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from coreml_interpreter.run import Interpreter

from diffoundry.runtime.errors import EngineError
from diffoundry.targets.coreml.build.target import CoreMlTarget

SWIFT = CoreMlTarget(layout="swift")

COMPILER = """#!/bin/sh
echo "$@" >> "{log}"
if [ "$1" = --find ]; then exit {find}; fi
test "$2" = compile && test -f "$3/Manifest.json" || exit 3
made="$4/$(basename "$3" .mlpackage).mlmodelc"
mkdir -p "$made" && cp "$3/Manifest.json" "$made/from"
{then}
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Factory: an `xcrun` on the path that notes how it was called; gives the log."""

    def make(*, find=0, then=":"):
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "xcrun").write_text(COMPILER.format(log=tmp_path / "log", find=find, then=then))
        (folder / "xcrun").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "log"

    return make


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose packages are empty but for their manifests."""
    root = tmp_path / "x.bundle"
    for name in ("text_encoder/model", "unet/model", "vae_encoder/model", "vae_decoder/model"):
        (root / f"{name}.mlpackage").mkdir(parents=True)
        (root / f"{name}.mlpackage/Manifest.json").write_text(name)
    (root / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (root / "tokenizer" / name).write_text(name)
    return root


def names(folder):
    return sorted(path.name for path in folder.iterdir())


MODELS = ["TextEncoder.mlmodelc", "Unet.mlmodelc", "VAEDecoder.mlmodelc", "VAEEncoder.mlmodelc"]


def test_a_denoiser_that_is_no_unet_is_refused(bundle):
    (bundle / "unet/config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    CoreMlTarget(layout="swift").complete(bundle)
    (bundle / "unet/config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')
    with pytest.raises(
        EngineError, match="got the denoiser SD3Transformer2DModel, expected UNet2DConditionModel; export"
    ):
        CoreMlTarget(layout="swift").complete(bundle)


def test_without_a_compiler_the_folder_holds_how_to_call_it(bundle, monkeypatch, compiler):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    SWIFT.complete(bundle)
    assert names(bundle / "Resources") == ["compile.sh", "merges.txt", "vocab.json"]
    log = compiler()
    subprocess.run(["sh", str(bundle / "Resources/compile.sh")], check=True, cwd="/")
    assert names(bundle / "Resources") == sorted([*MODELS, "compile.sh", "merges.txt", "vocab.json"])
    assert (bundle / "Resources/VAEDecoder.mlmodelc/from").read_text() == "vae_decoder/model"
    assert "coremlcompiler compile ../unet/model.mlpackage ." in log.read_text()


def test_with_a_compiler_the_models_are_there(bundle, compiler):
    compiler()
    SWIFT.complete(bundle)
    assert names(bundle / "Resources") == sorted([*MODELS, "compile.sh", "merges.txt", "vocab.json"])
    SWIFT.complete(bundle)  # a second time replaces them
    assert (bundle / "Resources/Unet.mlmodelc/from").read_text() == "unet/model"


def test_xcrun_without_the_compiler_is_not_called(bundle, compiler):
    log = compiler(find=72)
    SWIFT.complete(bundle)
    assert names(bundle / "Resources") == ["compile.sh", "merges.txt", "vocab.json"]
    assert log.read_text() == "--find coremlcompiler\n"


def test_chunks_are_compiled_in_the_place_of_the_whole(bundle, compiler):
    compiler()
    (bundle / "unet/model.mlpackage").rename(bundle / "unet/model.chunk1.mlpackage")
    shutil.copytree(bundle / "unet/model.chunk1.mlpackage", bundle / "unet/model.chunk2.mlpackage")
    SWIFT.complete(bundle)
    found = [name for name in names(bundle / "Resources") if name.startswith("Unet")]
    assert found == ["UnetChunk1.mlmodelc", "UnetChunk2.mlmodelc"]


def test_a_failing_compiler_is_an_error_with_its_words(bundle, compiler):
    compiler(then="echo 'error: unsupported opset' >&2; exit 7")
    with pytest.raises(
        EngineError, match=r"coremlcompiler failed with status 7: error: unsupported opset; run .*compile.sh"
    ):
        SWIFT.complete(bundle)


def test_a_missing_model_is_an_error(bundle):
    shutil.rmtree(bundle / "unet/model.mlpackage")
    with pytest.raises(EngineError, match="got no package for Unet, expected one for each.* --buckets"):
        SWIFT.complete(bundle)


def test_a_missing_vocabulary_is_an_error(bundle):
    (bundle / "tokenizer/merges.txt").unlink()
    with pytest.raises(EngineError, match=r"got no tokenizer/merges.txt in the bundle"):
        SWIFT.complete(bundle)


def test_the_plain_layout_writes_nothing(bundle):
    CoreMlTarget().complete(bundle)
    assert not (bundle / "Resources").exists()


def described(features):
    return [(feature.name, feature.dtype, feature.shape) for feature in features.values()]


EDGES = {
    # As Swift feeds them: every input float32; the code takes "the first" output of all but the text encoder.
    "text_encoder": ([("input_ids", "float32", (1, 77))],
                     [("last_hidden_state", "float32", (1, 77, 32)), ("pooler_output", "float32", (1, 32)),
                      ("normalized_hidden_states", "float32", (1, 2, 77, 32))]),
    "unet": ([("sample", "float32", (2, 4, 8, 8)), ("timestep", "float32", (2,)),
              ("encoder_hidden_states", "float32", (2, 32, 1, 77))], [("out_sample", "float32", (2, 4, 8, 8))]),
    "vae_encoder": ([("sample", "float32", (1, 3, 64, 64))], [("latent_parameters", "float32", (1, 8, 8, 8))]),
    "vae_decoder": ([("latent_sample", "float32", (1, 4, 8, 8))], [("sample", "float32", (1, 3, 64, 64))]),
}  # fmt: skip


@pytest.mark.slow_cases("fp32-*", "*-unet")
@pytest.mark.parametrize("component", EDGES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_names_types_and_shapes_are_what_swift_feeds(lowered, component, precision):
    function = Interpreter(lowered("sd1", component, precision, layout="swift").packages[0]).function
    assert (described(function.inputs), described(function.outputs)) == EDGES[component]


def test_token_ids_are_whole_in_the_plain_layout(lowered):
    function = Interpreter(lowered("sd1", "text_encoder").packages[0]).function
    assert described(function.inputs) == [("input_ids", "int32", (1, 77))]


def test_token_ids_in_floats_find_every_row(lowered):
    """The last row of the table too: float32 holds whole numbers up to 2^24."""
    made = lowered("sd1", "text_encoder", layout="swift")
    plain = lowered("sd1", "text_encoder")
    ids = np.linspace(0, 4294, 77).astype(np.int32)[None]
    floats = Interpreter(made.packages[0]).run({"input_ids": ids.astype(np.float32)}).outputs
    whole = Interpreter(plain.packages[0]).run({"input_ids": ids}).outputs
    np.testing.assert_array_equal(floats["last_hidden_state"], whole["last_hidden_state"])


def test_the_names_of_the_folder_are_apples():
    """As in `StableDiffusionPipeline+Resources.swift`."""
    from diffoundry.targets.coreml.build import swift_resources as resources

    theirs = {"TextEncoder", "Unet", "UnetChunk1", "UnetChunk2", "VAEDecoder", "VAEEncoder"}
    assert set(resources._MODELS) == theirs
    assert Path(resources.FOLDER).name == "Resources"

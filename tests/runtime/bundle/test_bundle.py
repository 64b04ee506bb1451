"""A bundle is hostile until checked: every attack gets its own sentence, and nothing is read before it."""

import copy
import json
import os
from pathlib import Path

import pytest

from diffoundry.runtime.bundle.bundle import Bundle, tell_unchecked
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.manifest import FORMAT_VERSION, MAX_JSON_BYTES
from diffoundry.runtime.errors import BundleError


def _write(root: Path, name: str, content: bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def manifest(tmp_path):
    """A small honest bundle in `tmp_path / "b"`, and its manifest as a dict to be tampered with."""
    root = tmp_path / "b"
    _write(root, "model_index.json", b'{"_class_name": "StableDiffusionPipeline"}')
    _write(root, "unet/model.onnx", b"graph")
    _write(root, "unet/model.onnx_data", b"weights" * 100)
    _write(root, "unet/config.json", b'{"sample_size": 8}')
    engine = {"target": "onnxruntime", "precision": "fp32", "files": ["unet/model.onnx"], "inputs": [], "outputs": []}
    files = {
        path.relative_to(root).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in root.rglob("*")
        if path.is_file()
    }
    variants = [{"target": "onnxruntime", "precision": "fp32"}]
    recipe = {"model": "m", "source": {}, "variants": variants, "dims": {}, "opset": 20}
    unet = {
        "role": "denoiser",
        "network": "UNet2DConditionModel",
        "graph": ["unet/model.onnx", "unet/model.onnx_data"],
        "engines": [engine],
    }
    data = {
        "format_version": FORMAT_VERSION,
        "diffoundry": "0",
        "family": "stable_diffusion",
        "recipe": recipe,
        "components": {"unet": unet},
        "files": files,
    }
    _write(root, "diffoundry.json", json.dumps(data).encode())
    return data


@pytest.fixture
def root(tmp_path, manifest):
    return tmp_path / "b"


def _tamper(root: Path, manifest: dict) -> None:
    (root / "diffoundry.json").write_text(json.dumps(manifest))


def test_an_honest_bundle_opens(root):
    bundle = Bundle(root)
    assert bundle.components == ("unet",)
    assert bundle.config("unet") == {"sample_size": 8}
    assert bundle.file("unet/model.onnx_data").read_bytes() == b"weights" * 100


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "unet/../../secret",
        "/etc/passwd",
        "unet\\model.onnx",
        "C:/x",
        "",
        "./unet/model.onnx",
        "a//b",
        "a\0b",
    ],
)
def test_paths_out_of_the_bundle_are_refused(root, manifest, name):
    manifest["files"][name] = {"size": 1, "sha256": "0"}
    _tamper(root, manifest)
    with pytest.raises(BundleError, match="expected a relative path inside the bundle; do not trust"):
        Bundle(root)


def test_a_symbolic_link_is_refused(root, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"graph")
    (root / "unet/model.onnx").unlink()
    (root / "unet/model.onnx").symlink_to(secret)
    with pytest.raises(BundleError, match="model.onnx is a symbolic link, expected a plain file"):
        Bundle(root)


def test_a_linked_folder_is_refused(root, tmp_path):
    (root / "unet").rename(tmp_path / "elsewhere")
    (root / "unet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="unet is a symbolic link"):
        Bundle(root)


def test_a_linked_manifest_is_refused(root, tmp_path):
    (root / "diffoundry.json").rename(tmp_path / "m.json")
    (root / "diffoundry.json").symlink_to(tmp_path / "m.json")
    with pytest.raises(BundleError, match="diffoundry.json is a symbolic link"):
        Bundle(root)


def test_a_hard_link_is_refused(root, tmp_path):
    os.link(root / "unet/model.onnx", tmp_path / "other")
    with pytest.raises(BundleError, match="model.onnx is a hard link, expected a file of its own"):
        Bundle(root)


def test_a_pipe_is_refused(root):
    (root / "unet/model.onnx").unlink()
    os.mkfifo(root / "unet/model.onnx")
    with pytest.raises(BundleError, match="is not a plain file"):
        Bundle(root)


def test_a_truncated_file_is_refused_at_once(root):
    (root / "unet/model.onnx_data").write_bytes(b"weights")
    with pytest.raises(BundleError, match="model.onnx_data has 7 bytes, expected 700; it is truncated"):
        Bundle(root)


def test_a_swapped_file_is_refused_before_use(root):
    (root / "unet/model.onnx_data").write_bytes(b"WEIGHTS" * 100)
    bundle = Bundle(root)
    with pytest.raises(BundleError, match=r"model.onnx_data has SHA-256 .* it was changed after the export"):
        bundle.file("unet/model.onnx_data")


def test_a_link_put_there_after_opening_is_refused(root, tmp_path):
    bundle = Bundle(root)
    (root / "unet/model.onnx").rename(tmp_path / "moved")
    (root / "unet/model.onnx").symlink_to(tmp_path / "moved")
    with pytest.raises(BundleError, match="symbolic link"):
        bundle.file("unet/model.onnx")


def test_a_missing_file_is_named(root):
    (root / "unet/model.onnx").unlink()
    with pytest.raises(BundleError, match=r"the file 'unet/model.onnx' is missing .* copy the bundle again"):
        Bundle(root)


def test_an_engine_file_outside_the_list_is_refused(root, manifest):
    manifest["components"]["unet"]["engines"][0]["files"] = ["unet/other.onnx"]
    _tamper(root, manifest)
    with pytest.raises(BundleError, match="'unet/other.onnx' is used but not listed"):
        Bundle(root)


@pytest.mark.parametrize(
    ("version", "advice"), [(FORMAT_VERSION + 1, "upgrade diffoundry"), (0, "export the bundle again")]
)
def test_other_format_versions_are_refused(root, manifest, version, advice):
    manifest["format_version"] = version
    _tamper(root, manifest)
    with pytest.raises(BundleError, match=f"got format version {version} .*{advice}"):
        Bundle(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[]", "got no format_version"),
        (b'{"format_version": true}', "got no format_version"),
        (b"[" * 200_000, "nested too deeply|not valid JSON"),
        (b" " * (MAX_JSON_BYTES + 1), f"got more than {MAX_JSON_BYTES} bytes"),
    ],
)
def test_broken_manifests_are_refused(root, text, message):
    (root / "diffoundry.json").write_bytes(text)
    with pytest.raises(BundleError, match=message):
        Bundle(root)


def test_a_wrong_field_is_named(root, manifest):
    manifest["recipe"]["opset"] = "20"
    _tamper(root, manifest)
    with pytest.raises(BundleError, match=r"\$\.recipe\.opset: got '20', expected an integer; export the bundle again"):
        Bundle(root)


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(BundleError, match="got nothing there, expected a folder made by"):
        Bundle(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="got a file there"):
        Bundle(tmp_path / "file")
    with pytest.raises(BundleError, match="got a folder without diffoundry.json and model_index.json"):
        Bundle(tmp_path)


def test_unknown_component_lists_those_there_are(root):
    with pytest.raises(BundleError, match="got no component 'controlnet', it has unet"):
        Bundle(root).engines("controlnet")


def _as_version_4(manifest: dict) -> None:
    manifest["format_version"] = 4
    manifest["recipe"]["builds"] = manifest["recipe"].pop("variants")
    for name in ("role", "network"):
        del manifest["components"]["unet"][name]


def test_version_1_is_read_as_one_variant(root, manifest):
    _as_version_4(manifest)
    manifest["format_version"] = 1
    del manifest["recipe"]["builds"]
    manifest["recipe"] |= {"target": "onnxruntime", "precision": "fp16", "target_options": {"winograd": False}}
    _tamper(root, manifest)
    (variant,) = Bundle(root).manifest.recipe.variants
    assert (variant.target, variant.precision, variant.options) == ("onnxruntime", "fp16", {"winograd": False})


def test_version_1_with_words_of_version_2_is_refused(root, manifest):
    _as_version_4(manifest)
    manifest["format_version"] = 1
    _tamper(root, manifest)
    with pytest.raises(BundleError, match=r"recipe.variants\[0\]: the field 'target' is missing"):
        Bundle(root)


def test_version_4_gets_role_and_network_from_folder_and_model_index(root, manifest):
    _as_version_4(manifest)
    index = b'{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
    _write(root, "model_index.json", index)
    manifest["files"]["model_index.json"] = {
        "size": len(index),
        "sha256": sha256_of(root / "model_index.json"),
    }
    manifest["components"]["unet"]["engines"][0]["facts"] = {"attentions": 3}
    _tamper(root, manifest)
    bundle = Bundle(root)
    assert (bundle.role("unet"), bundle.network("unet")) == ("denoiser", "UNet2DConditionModel")
    assert bundle.manifest.components["unet"].network == "UNet2DConditionModel"
    assert bundle.engines("unet")[0].metadata == {"attentions": 3}


def test_version_5_does_not_take_words_of_version_4(root, manifest):
    manifest["components"]["unet"]["engines"][0]["facts"] = {}
    _tamper(root, manifest)
    with pytest.raises(BundleError, match=r"engines\[0\]: .*'facts'"):
        Bundle(root)


def test_an_unknown_role_is_refused(root, manifest):
    manifest["components"]["unet"]["role"] = "oracle"
    _tamper(root, manifest)
    with pytest.raises(BundleError, match=r"unet\.role: got 'oracle', expected one of text_encoder, .*; upgrade"):
        Bundle(root)


@pytest.mark.parametrize(
    ("folder", "config", "index", "role", "network"),
    [
        ("unet", {"_class_name": "UNet2DConditionModel"}, None, "denoiser", "UNet2DConditionModel"),
        ("transformer", {"_class_name": "SD3Transformer2DModel"}, None, "denoiser", "SD3Transformer2DModel"),
        ("text_encoder_2", {"architectures": ["CLIPTextModelWithProjection"]}, None, "text_encoder",
         "CLIPTextModelWithProjection"),
        ("vae_decoder", {}, {"vae": ["diffusers", "AutoencoderTiny"]}, "vae_decoder", "AutoencoderTiny"),
        ("vae_decoder", {"_class_name": "AutoencoderKL"},
         {"vae_decoder": ["optimum.onnxruntime.modeling_diffusion", "ORTModelVaeDecoder"]}, "vae_decoder",
         "AutoencoderKL"),
        ("controlnet_1", {}, None, "controlnet", ""),
    ],
)  # fmt: skip
def test_a_folder_without_a_manifest_has_roles_too(tmp_path, folder, config, index, role, network):
    _write(tmp_path, "model_index.json", json.dumps({"_class_name": "P", **(index or {})}).encode())
    _write(tmp_path, f"{folder}/model.onnx", b"graph")
    _write(tmp_path, f"{folder}/config.json", json.dumps(config).encode())
    bundle = Bundle(tmp_path)
    assert (bundle.role(folder), bundle.network(folder)) == (role, network)
    assert bundle.with_role(role) == (folder,)
    assert bundle.with_role("prior") == ()


_X = {"name": "x", "dtype": "float32", "shape": [1]}


def _part(**fields):
    return {"name": "step", "files": ["unet/model.onnx"], "inputs": [], "outputs": [], **fields}


_OUT_OF_RANGE = [
    ("recipe", {"dims": {"height": {"multiple_of": 0}}}, r"dims.height.multiple_of: got 0, expected a whole number"),
    ("recipe", {"dims": {"batch": {"max": 0}}}, r"dims.batch.max: got 0, expected a whole number from 1 to"),
    ("recipe", {"dims": {"batch": {"min": 2, "max": 1}}}, r"dims.batch.max: got 1, expected a whole number from 2"),
    ("recipe", {"buckets": [[64]]}, r"buckets\[0\]: got a list of 1, expected 2 entries"),
    ("recipe", {"buckets": [[64, -64]]}, r"buckets\[0\]\[1\]: got -64, expected a whole number from 1 to"),
    ("recipe", {"opset": 10**400}, r"opset: got 1000*\.\.\., expected a whole number from 1 to 1000"),
    ("engine", {"files": []}, r"engines\[0\].files: got an empty list, expected at least one entry"),
    ("engine", {"inputs": [{"name": "x", "dtype": "object", "shape": []}]}, r"dtype: got 'object', expected one of"),
    ("engine", {"inputs": [{"name": "x", "dtype": "bool", "shape": [-1]}]}, r"shape\[0\]: got -1, expected a whole"),
    ("engine", {"outputs": [{"name": "x", "dtype": "bool", "shape": [1] * 9}]}, r"shape: got 9 sizes, expected at"),
    ("engine", {"adapters": {"files": []}}, r"adapters.files: got an empty list, expected at least one"),
    ("engine", {"adapters": {"files": ["a"], "layers": {"to_q": [4]}}}, r"layers.to_q: got 1 sizes, expected 2, or"),
    (
        "engine",
        {"parts": [_part(files=["other"])]},
        r"parts\[0\].files: got 'other', expected files of the engine only",
    ),
    ("engine", {"parts": [_part(files=[])]}, r"parts\[0\].files: got an empty list, expected at least one entry"),
    ("engine", {"parts": [_part(), _part()]}, r"parts\[1\].name: got 'step' twice, expected it once"),
    ("engine", {"parts": [_part(weights=-1)]}, r"parts\[0\].weights: got -1, expected a whole number from 0"),
    ("engine", {"parts": [_part(inputs=[_X])]}, r"parts\[0\].inputs: got 'x', expected inputs of the engine and"),
    (
        "engine",
        {"parts": [_part(residuals={"x": "y"}, outputs=[_X])]},
        r"parts\[0\].residuals: got 'x' and 'y', expected an output of the part and an earlier value",
    ),
    ("engine", {"inputs": [_X], "parts": [_part(residuals={"y": "x"})]}, r"parts\[0\].residuals: got 'y' and 'x', exp"),
    ("engine", {"parts": [_part()], "outputs": [_X]}, r"engines\[0\].outputs: got 'x', expected outputs of its parts"),
    ("engine", {"idle": {"inputs": ["y"]}}, r"engines\[0\].idle.inputs: got 'y', expected inputs of the engine"),
    ("engine", {"idle": {"inputs": []}}, r"engines\[0\].idle.inputs: got an empty list, expected inputs of the engine"),
    ("engine", {"target": "\ud800"}, r"not valid JSON \(half of a surrogate pair\)"),
]


def test_numbers_out_of_range_are_refused_where_they_are_read(root, manifest):
    for place, fields, message in _OUT_OF_RANGE:
        changed = copy.deepcopy(manifest)
        record = changed["recipe"] if place == "recipe" else changed["components"]["unet"]["engines"][0]
        record.update(fields)
        _tamper(root, changed)
        with pytest.raises(BundleError, match=message):
            Bundle(root)


def test_a_folder_without_a_manifest_says_once_that_nothing_was_checked(root, caplog):
    tell_unchecked(Bundle(root))
    assert not caplog.records
    (root / "diffoundry.json").unlink()
    for _ in range(2):
        tell_unchecked(Bundle(root))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{root} has no diffoundry.json: its files have no sums and nothing was checked" in record.getMessage()


@pytest.mark.parametrize("ending", ["partial", "build", "old"])
def test_what_an_interrupted_command_left_is_named(tmp_path, ending):
    (tmp_path / f"b.{ending}").mkdir()
    with pytest.raises(BundleError, match=rf"got nothing there, .*; an interrupted command left b\.{ending} beside it"):
        Bundle(tmp_path / "b")

"""Lowering: what is fused, what is shared with the portable graph, what is refused, and the same numbers."""

import shutil
from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.runtime.errors import ConfigError, EngineError
from diffoundry.runtime.models import roles
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.onnxruntime.build.target import OnnxRuntimeTarget

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")


@pytest.fixture
def portable(emoji_bundle, tmp_path):
    """Factory: the bundle folder of one component of the embedded model, with its portable graph alone."""

    def make(name):
        (tmp_path / name).mkdir()
        for file in (emoji_bundle / name).glob("model.onnx*"):
            if "onnxruntime" not in file.name:
                shutil.copy(file, tmp_path / name)
        return tmp_path / name / "model.onnx"

    return make


def lower(graph, role=None, **options):
    bundle = graph.parent.parent
    work = Lowering(
        component=graph.parent.name,
        role=role or role_of_folder(graph.parent.name),
        graph=graph,
        bundle=bundle,
        precision="fp32",
    )
    spec = OnnxRuntimeTarget(**options).lower(work)
    return spec, bundle / spec.files[0]


def operators(path):
    return Counter(node.op_type for node in ir.load(path).graph)


def run(path, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def feeds_of(graph):
    """Random inputs of some size."""
    generator = np.random.default_rng(0)
    sizes = {"batch": 2, "sequence": 77, "height": 40, "width": 24, "height/8": 5, "width/8": 3}
    feeds = {}
    for value in ir.load(graph).graph.inputs:
        shape = [size if isinstance(size, int) else sizes[size.value] for size in value.shape]
        if value.dtype == ir.DataType.INT32:
            feeds[value.name] = generator.integers(0, 4000, shape).astype(np.int32)
        else:
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
    return feeds


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_attention_and_group_norm_is_lowered_and_the_numbers_stay(portable, name):
    graph = portable(name)
    before, feeds = operators(graph), feeds_of(graph)
    _, engine = lower(graph)
    after = operators(engine)
    assert after["MultiHeadAttention"] == before["Attention"] > 0
    by_rows = after["ReduceSumSquare"]  # of images: the attention of a VAE normalises tokens
    assert (by_rows > 0) == name.startswith("vae")
    assert after["InstanceNormalization"] + by_rows == after["BatchNormalization"] == before["GroupNormalization"]
    assert not {"Attention", "GroupNormalization"} & set(after)
    for expected, got in zip(run(graph, feeds), run(engine, feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


IMAGES = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 4, {sides}] sample, float[4] scale, float[4] bias) => (float[batch, 4, {sides}] out_sample)
{{ out_sample = GroupNormalization <num_groups = 2> (sample, scale, bias) }}
"""


@pytest.mark.parametrize(
    ("role", "sides", "expected"),
    [
        (roles.DENOISER, "height, width", True),
        (roles.UPSCALER, "512, 512", True),
        (roles.DENOISER, '"height/8", "width/8"', False),
        (roles.DENOISER, "128, 128", False),
        (roles.CONTROLNET, "height, width", False),
        (roles.VAE_DECODER, '"height/8", "width/8"', True),
    ],
)
def test_networks_over_whole_images_sum_by_rows(tmp_path, role, sides, expected):
    (tmp_path / "unet").mkdir()
    graph = tmp_path / "unet/model.onnx"
    ir.save(ir.from_onnx_text(IMAGES.format(sides=sides)), graph)
    _, engine = lower(graph, role=role)
    assert ("ReduceSumSquare" in operators(engine)) == expected


def test_the_spec_describes_the_engine(portable):
    spec, engine = lower(portable("unet"))
    assert spec.target == "onnxruntime"
    assert spec.precision == "fp32"
    assert spec.files == ("unet/model.onnxruntime.onnx", "unet/model.onnx_data")
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in (*spec.inputs, *spec.outputs)] == [
        ("sample", "float32", ("batch", 4, "height/8", "width/8")),
        ("timestep", "float32", (1,)),
        ("encoder_hidden_states", "float32", ("batch", "sequence", 128)),
        ("out_sample", "float32", ("batch", 4, "height/8", "width/8")),
    ]
    assert spec.options == {"device": "cpu", "winograd": True}
    assert spec.built_with == {"onnxruntime": onnxruntime.__version__}
    assert engine.stat().st_size < 1_000_000, "weights must stay in the portable graph's file"
    assert sorted(file.name for file in engine.parent.iterdir()) == [
        "model.onnx",
        "model.onnx_data",
        "model.onnxruntime.adapters.onnx",
        "model.onnxruntime.onnx",
    ]
    assert spec.adapters.files == ("unet/model.onnxruntime.adapters.onnx", "unet/model.onnx_data")
    assert engine.with_name("model.onnxruntime.adapters.onnx").stat().st_size < 1_500_000


def test_the_portable_graph_is_not_changed(portable):
    graph = portable("unet")
    before = {file.name: file.read_bytes() for file in graph.parent.iterdir()}
    lower(graph)
    assert {name: (graph.parent / name).read_bytes() for name in before} == before


def test_an_engine_for_cuda_has_its_attention_fused_and_norms_in_plain_operators(portable):
    graph = portable("unet")
    before = operators(graph)
    _, engine = lower(graph, device="cuda")
    after = operators(engine)
    assert after["MultiHeadAttention"] == before["Attention"]
    assert after["ReduceMean"] - before["ReduceMean"] == 2 * before["GroupNormalization"] > 0
    assert after["GroupNormalization"] == after["InstanceNormalization"] == 0


LARGE = """
<ir_version: 10, opset_import: ["": 23]>
g (float[n, 256, 32, 33] x, float[256, 256, 3, 3] w) => (float[n, 256, 32, 33] y)
{ c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w) y = Relu(c) }
"""


@pytest.fixture
def large(tmp_path):
    """A portable graph of one convolution that is worth transforming."""
    model = ir.from_onnx_text(LARGE)
    weight = model.graph.inputs.pop(1)
    array = np.random.default_rng(0).standard_normal((256, 256, 3, 3)).astype(np.float32)
    weight.const_value = ir.tensor(array / 48, name="w")
    model.graph.register_initializer(weight)
    ShapeInferencePass()(model)
    (tmp_path / "vae").mkdir()
    ir.save(model, tmp_path / "vae/model.onnx", external_data="model.onnx_data")
    return tmp_path / "vae/model.onnx"


def test_changed_weights_get_a_file_of_their_own(large):
    spec, engine = lower(large)
    assert spec.files == ("vae/model.onnxruntime.onnx", "vae/model.onnxruntime.onnx_data")
    weight = next(value for value in ir.load(engine).graph.initializers.values() if value.name == "w.winograd")
    own = engine.with_name("model.onnxruntime.onnx_data").stat().st_size
    # Four times the weight, and the kernel of the input transform: 36 patterns of 36 for each channel.
    assert own == 4 * weight.const_value.size + 4 * 256 * 36 * 36
    x = {"x": np.random.default_rng(1).standard_normal((2, 256, 32, 33)).astype(np.float32)}
    np.testing.assert_allclose(run(engine, x)[0], run(large, x)[0], rtol=0, atol=4e-5)


@pytest.mark.parametrize("options", [{"winograd": False}, {"device": "cuda"}])
def test_where_nothing_is_changed_the_portable_file_is_the_engine(large, options):
    spec, engine = lower(large, **options)
    assert engine == large
    assert spec.files == ("vae/model.onnx", "vae/model.onnx_data")
    assert sorted(file.name for file in large.parent.iterdir()) == ["model.onnx", "model.onnx_data"]


@pytest.mark.parametrize(
    ("imports", "reason"),
    [
        ({"": 99}, "needs opset 99 of 'ONNX', ONNX Runtime takes up to 26"),
        ({"": 23, "acme": 1}, "needs opset 1 of 'acme', ONNX Runtime has no such operators"),
    ],
)
def test_a_graph_that_the_library_does_not_know_is_refused(large, imports, reason):
    model = ir.load(large)
    model.opset_imports.clear()
    model.opset_imports.update(imports)
    assert reason in OnnxRuntimeTarget().unsupported(model)[0]
    ir.save(model, large)
    with pytest.raises(EngineError, match=r"target 'onnxruntime' cannot take .*model\.onnx: the graph needs opset"):
        lower(large)


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="option 'device': got 'npu', expected cpu or cuda"):
        OnnxRuntimeTarget(device="npu")

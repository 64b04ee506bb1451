"""Each rewrite: where it fires, what it leaves, where it must not; numbers are ONNX Runtime's of the graph before."""

import numpy as np
import openvino as ov
import pytest
from device_precisions import requires_precision

from diffoundry.targets.openvino import rewrites
from diffoundry.targets.openvino.run.adapters import read_adaptable
from diffoundry.targets.openvino.run.devices import core

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'

GATED = """
g (float[2,T,32] x, float[32,96] w, float[96] b) => (float[2,T,48] y) {
    p = MatMul(x, w)
    h = Add(p, b)
    a, g1 = Split<axis=-1, num_outputs=2>(h)
    g2 = Gelu(g1)
    y = Mul(a, g2)
}"""

GATED_INT8 = """
g (float[2,T,32] x, int8[32,96] w, float[96] s, float[96] b) => (float[2,T,48] y) {
    d = DequantizeLinear<axis=1>(w, s)
    p = MatMul(x, d)
    h = Add(p, b)
    a, g1 = Split<axis=-1, num_outputs=2>(h)
    g2 = Gelu(g1)
    y = Mul(a, g2)
}"""


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def int8(*shape, seed=0):
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


def scales(*shape, seed=0):
    return np.random.default_rng(seed).uniform(1e-3, 2e-3, shape).astype(np.float32)


@pytest.mark.parametrize("text", [GATED, GATED.replace("h = Add(p, b)", "h = Identity(p)")], ids=["bias", "no bias"])
def test_a_split_linear_layer_becomes_two(imported, same_numbers, operators, text):
    model = imported(HEAD + text, {"w": numbers(32, 96), "b": numbers(96)})
    assert rewrites.split_linears(model) == 1
    counts = operators(model)
    assert (counts["Split"], counts["MatMul"], counts["Gelu"]) == (0, 2, 1)
    same_numbers(model, {"x": numbers(2, 5, 32)})


def test_a_split_linear_layer_stays_int8(imported, same_numbers, operators):
    model = imported(HEAD + GATED_INT8, {"w": int8(32, 96), "s": scales(96), "b": numbers(96)})
    assert rewrites.split_linears(model) == 1
    assert operators(model)["Split"] == 0
    stored = [node for node in model.get_ops() if node.get_type_name() == "Constant" and node.data.dtype == np.int8]
    assert sorted(node.data.size for node in stored) == [32 * 48, 32 * 48]
    same_numbers(model, {"x": numbers(2, 5, 32)})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("h = Add(p, b)", "h = Mul(p, b)"),  # no linear layer
        ("axis=-1", "axis=1"),  # along the tokens
        ("y = Mul(a, g2)", "z = Mul(a, g2)\n t = ReduceSum<keepdims=1>(h)\n y = Add(z, t)"),  # also read whole
    ],
)
def test_other_splits_stay(imported, before, after):
    text = HEAD + GATED.replace(before, after).replace("[2,T,48] y", "[A,B,C] y")
    model = imported(text.replace("[2,T,32]", "[2,4,32]"), {"w": numbers(32, 96), "b": numbers(96)})
    assert rewrites.split_linears(model) == 0


def projections(count, quantized=False):
    """As many linear layers of one input, every second one with a bias, summed up behind an activation each."""
    inputs, lines = ["float[N,16] x"], []
    for index in range(count):
        kind = "int8" if quantized else "float"
        inputs += [f"{kind}[16,{8 + index}] w{index}", f"float[{8 + index}] b{index}"]
        weight = f"w{index}"
        if quantized:
            inputs.append(f"float[{8 + index}] s{index}")
            lines.append(f"d{index} = DequantizeLinear<axis=1>(w{index}, s{index})")
            weight = f"d{index}"
        lines.append(f"p{index} = MatMul(x, {weight})")
        lines.append(f"q{index} = {'Add' if index % 2 else 'Mul'}(p{index}, b{index})")
        lines.append(f"r{index} = ReduceMax<keepdims=1>(q{index})")
    lines.append(f"y = Sum({', '.join(f'r{index}' for index in range(count))})")
    weights = {f"w{i}": int8(16, 8 + i, seed=i) if quantized else numbers(16, 8 + i, seed=i) for i in range(count)}
    weights |= {f"b{i}": numbers(8 + i, seed=9 + i) for i in range(count)}
    weights |= {f"s{i}": scales(8 + i, seed=i) for i in range(count)} if quantized else {}
    return f"{HEAD} g ({', '.join(inputs)}) => (float[A,B] y) {{\n" + "\n".join(lines) + "\n}", weights


@pytest.mark.parametrize("quantized", [False, True])
def test_many_layers_of_one_input_are_joined(imported, same_numbers, operators, quantized):
    model = imported(*projections(5, quantized))
    assert rewrites.join_linears(model) == 5
    counts = operators(model)
    assert (counts["MatMul"], counts["VariadicSplit"]) == (1, 1)
    same_numbers(model, {"x": numbers(3, 16)})


def test_three_layers_of_one_input_stay(imported, operators):
    model = imported(*projections(3))
    assert rewrites.join_linears(model) == 0
    assert operators(model)["MatMul"] == 3


EMBEDDED = """
g (float[N,8,H,W] x, float[1] t, float[1,6] f, float[8,12] w, float[8] b, float[8,8,3,3] k) => (float[N,8,H,W] y) {
    batch = Shape<start=0, end=1>(x)
    u = Expand(t, batch)
    one = Constant<value_ints=[1]>()
    v = Unsqueeze(u, one)
    e = Mul(v, f)
    s = Sin(e)
    c = Cos(e)
    z = Concat<axis=-1>(s, c)
    h = Gemm<transB=1>(z, w, b)
    space = Constant<value_ints=[2, 3]>()
    m = Unsqueeze(h, space)
    q = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, k)
    y = Add(q, m)
}"""

EMBEDDED_WEIGHTS = {"f": numbers(1, 6), "w": numbers(8, 12), "b": numbers(8), "k": numbers(8, 8, 3, 3)}


def test_the_time_embedding_is_computed_once_for_the_batch(imported, same_numbers, operators):
    model = imported(HEAD + EMBEDDED, EMBEDDED_WEIGHTS)
    assert rewrites.share_time_embedding(model) == 1
    assert operators(model)["Broadcast"] == 0
    product = next(node for node in model.get_ops() if node.get_type_name() == "MatMul")
    model.validate_nodes_and_infer_types()
    assert product.output(0).get_partial_shape().to_shape() == [1, 8]
    same_numbers(model, {"x": numbers(3, 8, 5, 4), "t": np.array([481.5], np.float32)}, 1e-4)


WITH_ANOTHER = EMBEDDED.replace("Gemm<transB=1>(z, w, b)", "Gemm<transB=1>(z, w, b)\n h2 = Add(h, a)").replace(
    "Unsqueeze(h, space)", "Unsqueeze(h2, space)"
)
"""With another embedding `a`."""


def test_a_time_embedding_is_added_to_another(imported, same_numbers, operators):
    """That of the text and the sizes of Stable Diffusion XL, or of an image."""
    model = imported(HEAD + WITH_ANOTHER.replace("float[1] t,", "float[1] t, float[N,8] a,"), EMBEDDED_WEIGHTS)
    assert rewrites.share_time_embedding(model) == 1
    assert operators(model)["Broadcast"] == 0
    feeds = {"x": numbers(3, 8, 5, 4), "t": np.array([481.5], np.float32), "a": numbers(3, 8, seed=1)}
    same_numbers(model, feeds, 1e-4)


@pytest.mark.parametrize("shape", ["1,8", "8"])
def test_a_time_embedding_added_to_one_row_stays(imported, operators, shape):
    model = imported(HEAD + WITH_ANOTHER.replace("float[1] t,", f"float[1] t, float[{shape}] a,"), EMBEDDED_WEIGHTS)
    assert rewrites.share_time_embedding(model) == 0
    assert operators(model)["Broadcast"] == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = Add(q, m)", "y = Mul(q, m)"),  # a multiplication broadcasts as well, but no network does it
        ("z = Concat<axis=-1>(s, c)", "w2 = Concat<axis=0>(s, c)\n z = Concat<axis=1>(w2, w2)"),  # rows of a batch
        ("y = Add(q, m)", "l = ReduceMean<keepdims=1>(h, one)\n r = Unsqueeze(l, space)\n y = Add(q, r)"),  # an output
    ],
)
def test_other_uses_of_a_timestep_stay(imported, operators, before, after):
    text = (HEAD + EMBEDDED.replace(before, after)).replace("(float[N,8,H,W] y)", "(float[A,B,C,D] y)")
    model = imported(text, EMBEDDED_WEIGHTS)
    assert rewrites.share_time_embedding(model) == 0
    assert operators(model)["Broadcast"] == 1


UPSAMPLED = """
g (float[1,{inputs},H,W] x, float[{outputs},{inputs},3,3] w, float[{outputs}] b) => (float[1,{outputs},A,B] y) {{
    s = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>()
    u = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">(x, , s)
    y = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(u, w, b)
}}"""


def upsampled(imported, inputs=6, outputs=8, before="", after=""):
    text = HEAD + UPSAMPLED.format(inputs=inputs, outputs=outputs).replace(before, after)
    return imported(text, {"w": numbers(outputs, inputs, 3, 3), "b": numbers(outputs)})


def names_of(model, kind):
    return [node.get_friendly_name() for node in model.get_ops() if node.get_type_name() == kind]


@pytest.mark.parametrize(("outputs", "kind", "count"), [(8, "ConvolutionBackpropData", 1), (640, "Convolution", 4)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (7, 5)])
def test_upsampling_moves_behind_its_convolution(
    imported, same_numbers, operators, outputs, kind, count, height, width
):
    model = upsampled(imported, outputs=outputs)
    assert rewrites.merge_upsampling(model, names_of(model, "Interpolate")) == 1
    counts = operators(model)
    assert (counts["Interpolate"], counts[kind]) == (0, count)
    same_numbers(model, {"x": numbers(1, 6, height, width)})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("kernel_shape=[3, 3], ", "kernel_shape=[3, 3], strides=[2, 2], "),
        ("pads=[1, 1, 1, 1]", "pads=[0, 0, 0, 0]"),
        ('mode="nearest"', 'mode="linear"'),
        ('nearest_mode="floor"', 'nearest_mode="ceil"'),
    ],
)
def test_other_convolutions_of_upsampled_maps_stay(imported, before, after):
    model = upsampled(imported, before=before, after=after)
    assert rewrites.merge_upsampling(model, names_of(model, "Interpolate")) == 0


def test_an_upsampling_that_may_not_double_stays(imported):
    assert rewrites.merge_upsampling(upsampled(imported), ()) == 0


ATTENTION = """
g (float[2,T,24] x, float[2,S,24] c, {kind}[24,80] q, {kind}[24,80] k, {kind}[24,80] v, {kind}[80,24] o,
   float[24] b{scales}) => (float[2,T,24] y) {{
    split = Constant<value_ints=[0, 0, 2, {width}]>()
    join = Constant<value_ints=[0, 0, 80]>()
    {weights}
    q1 = MatMul(x, q0)
    k1 = MatMul({context}, k0)
    v1 = MatMul({context}, v0)
    q2 = Reshape(q1, split)
    k2 = Reshape(k1, split)
    v2 = Reshape(v1, split)
    q3 = Transpose<perm=[0, 2, 1, 3]>(q2)
    k3 = Transpose<perm=[0, 2, 1, 3]>(k2)
    v3 = Transpose<perm=[0, 2, 1, 3]>(v2)
    a = Attention{scale}(q3, k3, v3)
    a1 = Transpose<perm=[0, 2, 1, 3]>(a)
    a2 = Reshape(a1, join)
    o1 = MatMul(a2, o0)
    y = Add(o1, b)
}}"""

ATTENTION_SHAPES = {"q": (24, 80), "k": (24, 80), "v": (24, 80), "o": (80, 24)}


def attention(imported, context="x", scale="", quantized=False):
    names = "qkvo"
    line = "{0}0 = DequantizeLinear<axis=1>({0}, {0}s)" if quantized else "{0}0 = Identity({0})"
    text = ATTENTION.format(
        kind="int8" if quantized else "float",
        scales="".join(f", float[{ATTENTION_SHAPES[n][1]}] {n}s" for n in names) if quantized else "",
        weights="\n".join(line.format(name) for name in names),
        width=40,
        context=context,
        scale=scale,
    )
    make = int8 if quantized else numbers
    weights = {name: make(*shape, seed=i) for i, (name, shape) in enumerate(ATTENTION_SHAPES.items())}
    if quantized:
        weights |= {f"{name}s": scales(shape[1]) for name, shape in ATTENTION_SHAPES.items()}
    return imported(HEAD + text, {**weights, "b": numbers(24)})


@pytest.mark.parametrize("scale", ["", "<scale=0.5>"])
@pytest.mark.parametrize("quantized", [False, True])
def test_heads_of_self_attention_are_filled_up(imported, same_numbers, scale, quantized):
    model = attention(imported, scale=scale, quantized=quantized)
    assert rewrites.widen_heads(model) == 1
    node = next(node for node in model.get_ops() if node.get_type_name() == "ScaledDotProductAttention")
    widths = [node.input_value(index).get_partial_shape()[3].get_length() for index in range(3)]
    assert widths == [64, 64, 48]
    same_numbers(model, {"x": numbers(2, 7, 24), "c": numbers(2, 3, 24)})


def test_cross_attention_stays_narrow(imported):
    assert rewrites.widen_heads(attention(imported, context="c")) == 0


@pytest.mark.slow
def test_all_together_on_a_whole_network(lowered, feeds_for, torch_outputs, rms):
    """In bf16's graph, whose heads are filled up, but run in fp32: what is left is the storage of weights as halves.

    Timesteps are whole numbers, as the file on disk takes them.
    """
    path, spec = lowered("sd2", "unet", "bf16")
    assert spec.metadata == {
        "gated layers split": 7,
        "heads widened": 7,
        "timesteps shared": 1,
        "layers joined": 11 + 14,  # of the time embedding and of the prompt
    }
    feeds = {name: np.floor(array) if name == "timestep" else array for name, array in feeds_for(spec).items()}
    compiled = core().compile_model(core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (got,) = compiled(feeds).values()
    assert rms(got, torch_outputs("sd2", "unet", feeds)["out_sample"]) < 1e-3
    assert path.name == "openvino_model.xml"


def test_angles_are_stored_in_full(lowered):
    """Frequencies as halves would turn a late timestep by half a radian."""
    angles = {}
    for precision in ("fp32", "bf16"):
        path, _ = lowered("sd2", "unet", precision)
        model = core().read_model(path)
        sine = next(node for node in model.get_ordered_ops() if node.get_type_name() == "Sin")
        timestep = [node for node in model.get_parameters() if node.get_friendly_name() == "timestep"]
        angle = ov.Model([sine.input_value(0)], timestep)
        compiled = core().compile_model(angle, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        (angles[precision],) = compiled([np.ones(1, timestep[0].get_element_type().to_dtype())]).values()
    width = angles["fp32"].size
    np.testing.assert_allclose(angles["fp32"].ravel(), 10000 ** (-np.arange(width) / width), rtol=1e-6)
    np.testing.assert_array_equal(angles["bf16"], angles["fp32"])


@pytest.mark.parametrize("written", [True, False])
def test_angles_are_computed_in_full(lowered, written):
    """Rounded to bf16, a timestep of 999 is 1000. A model for LoRAs is made of the graph when it is opened."""
    requires_precision("openvino", "bf16")
    path, _ = lowered("sd2", "unet", "bf16")
    model = core().read_model(path) if written else read_adaptable(path.with_name("model.onnx"), {}, halves=True)
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    nodes = compiled.get_runtime_model().get_ordered_ops()
    keys = "layerType", "runtimePrecision"
    facts = {node.get_friendly_name(): {key: node.get_rt_info()[key].astype(str) for key in keys} for node in nodes}
    waiting = [node for node in nodes if facts[node.get_friendly_name()]["layerType"] == "Math"]
    assert len(waiting) == 2
    behind = {}
    while waiting:
        node = waiting.pop()
        behind[node.get_friendly_name()] = facts[node.get_friendly_name()]
        waiting += [value.get_node() for value in node.input_values()]
    computed = {kind["runtimePrecision"] for kind in behind.values() if kind["layerType"] not in ("Const", "Input")}
    assert computed <= {"f32", "i64", "i32"}
    assert "bf16" in {kind["runtimePrecision"] for kind in facts.values()}


@pytest.mark.slow
def test_marked_angles_give_the_same_numbers(lowered, feeds_for):
    path, spec = lowered("sd2", "unet", "bf16")
    feeds = {name: np.floor(array) if name == "timestep" else array for name, array in feeds_for(spec).items()}
    results = []
    for model in (core().read_model(path), read_adaptable(path.with_name("model.onnx"), {}, halves=True)):
        (result,) = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds).values()
        results.append(result)
    np.testing.assert_allclose(results[0], results[1], atol=1e-5 * np.abs(results[0]).max())


SCALED = """
g (float[N,16,4,4] x, float[N,32] t, float[16] w, float[16] b) => (float[N,16,4,4] y) {
    one = Constant<value_float=1.0>()
    last = Constant<value_ints=[2, 3]>()
    n = GroupNormalization<num_groups=4>(x, w, b)
    u = Unsqueeze(t, last)
    scale, shift = Split<axis=1, num_outputs=2>(u)
    s = Add(one, scale)
    m = Mul(n, s)
    y = Add(m, shift)
}"""


def test_a_scale_gets_its_one_before_it_is_split_off(imported, same_numbers, operators):
    """Compiled for fixed sizes too, where OpenVINO 2026.4 ends the process without this."""
    model = imported(HEAD + SCALED, {"w": numbers(16), "b": numbers(16)})
    assert rewrites.add_before_split(model) == 1
    (split,) = (node for node in model.get_ops() if node.get_type_name() in ("Split", "VariadicSplit"))
    assert split.input_value(0).get_node().get_type_name() == "Add"
    feeds = {"x": numbers(2, 16, 4, 4), "t": numbers(2, 32, seed=1)}
    same_numbers(model, feeds)
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    same_numbers(model, feeds)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("value_float=1.0", "value_float=2.0"),
        ("Add(one, scale)", "Add(one, shift)"),
        ("y = Add(m, shift)", "r = Mul(m, scale)\n y = Add(r, shift)"),  # the scale is also read without the 1
        ("m = Mul(n, s)", "m = Sub(n, s)"),
    ],
)
def test_other_additions_behind_a_split_stay(imported, before, after):
    model = imported(HEAD + SCALED.replace(before, after), {"w": numbers(16), "b": numbers(16)})
    assert rewrites.add_before_split(model) == 0

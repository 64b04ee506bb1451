"""Masks of padding get a row for each query, which ONNX Runtime wants."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from diffoundry.exporter.passes.attention_mask import SimplifyAttentionMask
from diffoundry.exporter.passes.expand_attention_mask import ExpandAttentionMask
from tests.graph_transforms import parse, run

TEXT = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 2, tokens, 8] q, float[batch, 2, keys, 8] k, float[batch, 2, keys, 8] v, {mask} mask)
    => (float[batch, 2, tokens, 8] y)
{{
    y = Attention(q, k, v, mask)
}}
"""


@pytest.mark.parametrize("shape", [(3, 1, 1, 6), (3, 2, 1, 6), (1, 6)], ids=str)
def test_a_row_for_all_queries_is_expanded(numbers, shape):
    dims = ", ".join({3: "batch", 6: "keys"}.get(size, str(size)) for size in shape)
    model = parse(TEXT.format(mask=f"float[{dims}]"), {}, infer=True)
    assert ExpandAttentionMask()(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for tokens in (1, 5):
        feeds = {"q": numbers(3, 2, tokens, 8), "k": numbers(3, 2, 6, 8)[::-1].copy(), "v": numbers(3, 2, 6, 8)}
        mask = np.where(np.arange(np.prod(shape)).reshape(shape) % 4 == 1, -1e4, 0).astype(np.float32)
        tensors = (torch.from_numpy(array) for array in (*feeds.values(), mask))
        expected = torch.nn.functional.scaled_dot_product_attention(*tensors).numpy()
        np.testing.assert_allclose(run(model, {**feeds, "mask": mask})[0], expected, rtol=1e-5, atol=1e-6)
    assert not ExpandAttentionMask()(model).modified
    assert not SimplifyAttentionMask()(model).modified


@pytest.mark.parametrize(
    "mask", ["float[batch, 1, tokens, keys]", "float[tokens, keys]", "bool[batch, 1, tokens, keys]"]
)
def test_other_masks_stay(mask):
    model = parse(TEXT.format(mask=mask), {}, infer=True)
    assert not ExpandAttentionMask()(model).modified

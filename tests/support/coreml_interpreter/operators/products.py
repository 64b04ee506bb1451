"""Matrix products, convolutions, attention."""

import math

import numpy as np
import torch

from coreml_interpreter.operators.elementwise import softmax, wide

__all__ = ["OPERATORS"]


def matmul(x, y, transpose_x=False, transpose_y=False):
    x, y = wide(x), wide(y)
    x = np.swapaxes(x, -1, -2) if transpose_x and x.ndim > 1 else x
    y = np.swapaxes(y, -1, -2) if transpose_y and y.ndim > 1 else y
    return np.matmul(x, y)


def linear(x, weight, bias=None):
    result = np.matmul(wide(x), wide(weight).T)
    return result if bias is None else result + wide(bias)


def einsum(values, equation):
    return np.einsum(equation.replace(" ", ""), *(wide(value) for value in values), optimize=True)


def conv(x, weight, bias=None, strides=None, pad_type="valid", pad=None, dilations=None, groups=1):
    axes = x.ndim - 2
    strides = [1] * axes if strides is None else [int(number) for number in strides]
    dilations = [1] * axes if dilations is None else [int(number) for number in dilations]
    pairs = _padding(x.shape[2:], weight.shape[2:], strides, dilations, pad_type, pad)
    padded = np.pad(wide(x), [(0, 0), (0, 0), *pairs])
    function = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[axes - 1]
    tensors = [
        None if part is None else torch.from_numpy(np.ascontiguousarray(wide(part))) for part in (padded, weight, bias)
    ]
    return function(*tensors, stride=strides, dilation=dilations, groups=int(groups)).numpy()


def _padding(sizes, kernel, strides, dilations, pad_type, pad):
    """Begin and end of every axis."""
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        return np.asarray(pad).reshape(-1, 2).tolist()
    pairs = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        wanted = math.ceil(size / stride)
        total = max((wanted - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        pairs.append((large, small) if pad_type == "same_lower" else (small, large))
    return pairs


def scaled_dot_product_attention(query, key, value, attn_mask=None):
    scores = np.matmul(wide(query), np.swapaxes(wide(key), -1, -2)) / np.float32(math.sqrt(query.shape[-1]))
    if attn_mask is not None and attn_mask.dtype == np.bool_:
        scores = np.where(attn_mask, scores, np.float32(-np.inf))
    elif attn_mask is not None:
        scores = scores + wide(attn_mask)
    return np.matmul(softmax(scores), wide(value))


OPERATORS = {
    "conv": conv,
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}

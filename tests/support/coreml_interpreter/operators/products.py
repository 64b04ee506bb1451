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


def conv_transpose(x, weight, bias=None, strides=None, pad_type="valid", pad=None, dilations=None, groups=1):
    axes = x.ndim - 2
    strides = [1] * axes if strides is None else [int(number) for number in strides]
    dilations = [1] * axes if dilations is None else [int(number) for number in dilations]
    function = (torch.nn.functional.conv_transpose1d, torch.nn.functional.conv_transpose2d)[axes - 1]
    tensors = [
        None if part is None else torch.from_numpy(np.ascontiguousarray(wide(part))) for part in (x, weight, bias)
    ]
    whole = function(*tensors, stride=strides, dilation=dilations, groups=int(groups)).numpy()
    pairs = _padding(x.shape[2:], weight.shape[2:], strides, dilations, pad_type, pad)
    inner = [slice(begin, size - end) for size, (begin, end) in zip(whole.shape[2:], pairs, strict=True)]
    return whole[(slice(None), slice(None), *inner)]


def avg_pool(
    x, kernel_sizes, strides=None, pad_type="valid", pad=None, exclude_padding_from_average=False, ceil_mode=False
):
    assert not ceil_mode, "windows beyond the image are never written"
    axes = x.ndim - 2
    kernel = [int(number) for number in kernel_sizes]
    strides = [1] * axes if strides is None else [int(number) for number in strides]
    pairs = [(0, 0), (0, 0), *_padding(x.shape[2:], kernel, strides, [1] * axes, pad_type, pad)]
    padded = np.pad(wide(x), pairs)
    counted = np.pad(np.ones_like(wide(x)), pairs) if exclude_padding_from_average else np.ones_like(padded)
    steps = (slice(None), slice(None), *(slice(None, None, stride) for stride in strides))
    sums, counts = (
        np.lib.stride_tricks.sliding_window_view(part, kernel, axis=tuple(range(2, x.ndim)))[steps].sum(
            axis=tuple(range(-axes, 0))
        )
        for part in (padded, counted)
    )
    return sums / counts


def max_pool(x, kernel_sizes, strides=None, pad_type="valid", pad=None, ceil_mode=False):
    assert not ceil_mode, "windows beyond the image are never written"
    axes = x.ndim - 2
    kernel = [int(number) for number in kernel_sizes]
    strides = [1] * axes if strides is None else [int(number) for number in strides]
    pairs = [(0, 0), (0, 0), *_padding(x.shape[2:], kernel, strides, [1] * axes, pad_type, pad)]
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(wide(x), pairs, constant_values=-np.inf), kernel, axis=tuple(range(2, x.ndim))
    )
    steps = (slice(None), slice(None), *(slice(None, None, stride) for stride in strides))
    return windows[steps].max(axis=tuple(range(-axes, 0)))


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
    "avg_pool": avg_pool,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "max_pool": max_pool,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}

"""Attention: one operator, two products around a softmax, or head by head in the Neural Engine's layout."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from diffoundry.targets.coreml.build.mil import mb
from diffoundry.targets.coreml.build.operators.elementwise import plain_like
from diffoundry.targets.coreml.build.translation import Translation, Var, is_read, shape_of

__all__ = ["attention", "attention_limits", "head_count", "mask_of", "scale_of", "split_einsum"]

_MASKED = -1e4
"""Added to scores that must not count: the exponential is zero in every precision, and no sum with it is
infinite in half precision."""


def attention(t: Translation, node: ir.Node) -> Var:
    """Attention on (B, heads, S, width), or on (B, S, heads * width) with the numbers of heads as attributes."""
    query, key, value = node.inputs[:3]
    heads = head_count(node)
    flat = len(shape_of(query)) == 3
    q, k, v = (_heads(t.var(tensor), heads) if flat else t.var(tensor) for tensor in (query, key, value))
    mask = mask_of(t, node, q)
    scale = scale_of(node, width=q.shape[-1])
    if t.fused_attention:
        result = mb.scaled_dot_product_attention(
            query=_scaled(q, scale * q.shape[-1] ** 0.5), key=k, value=v, attn_mask=mask
        )
    elif t.style.attention == "split-einsum":
        result = _split_heads(q, k, v, heads, scale, mask)
    else:
        scores = mb.matmul(x=_scaled(q, scale), y=k, transpose_y=True)
        scores = scores if mask is None else mb.add(x=scores, y=mask)
        result = mb.matmul(x=mb.softmax(x=scores, axis=-1), y=v)
    if not flat:
        return result
    return mb.reshape(x=mb.transpose(x=result, perm=[0, 2, 1, 3]), shape=list(shape_of(node.outputs[0])))


def attention_limits(node: ir.Node, _opset: Any) -> str | None:
    """Self- and cross-attention without a cache, the same number of heads everywhere."""
    if any(value is not None for value in node.inputs[4:]) or is_read(node.outputs[1:]):
        return "has a cache, padded lengths or gives its scores, expected none of these"
    if node.attributes.get_float("softcap", 0.0) != 0:
        return "has a softcap, expected none"
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if (
        mask is not None
        and mask.const_value is None
        and (mask.dtype == ir.DataType.BOOL or node.attributes.get_int("is_causal", 0) != 0 or len(shape_of(mask)) != 4)
    ):
        return "computes its mask, expected floats of rank 4 and no causal mask beside it, or a constant"
    query, key = node.inputs[0], node.inputs[1]
    rank = len(shape_of(query))
    key_heads = node.attributes.get_int("kv_num_heads", 0) if rank == 3 else shape_of(key)[1]
    if key_heads != head_count(node):
        return f"has {head_count(node)} heads of queries and {key_heads} of keys, expected as many"
    return None


def head_count(node: ir.Node) -> int:
    """Heads of the queries of an Attention."""
    shape = shape_of(node.inputs[0])
    return node.attributes.get_int("q_num_heads", 0) if len(shape) == 3 else shape[1]


def scale_of(node: ir.Node, width: int) -> float:
    """Return the factor of the scores: the node's scale, or one over the root of the head's width."""
    return float(node.attributes.get_float("scale", width**-0.5))


def split_einsum(
    query: Var, key: Var, value: Var, heads: int, scale: float, mask: Var | npt.NDArray[Any] | None
) -> Var:
    """Attention head by head on (B, C, 1, S), the layout and the equations of the Neural Engine.

    apple/ml-stable-diffusion, `attention.py`, SPLIT_EINSUM.

    Args:
        query: (B, heads * width, 1, Sq).
        key: (B, heads * width, 1, Sk).
        value: As `key`.
        heads: Number of heads.
        scale: Factor of the scores.
        mask: From `mask_of`.

    Returns:
        (B, heads * width, 1, Sq).
    """
    scaled = _scaled(query, scale)
    queries, values = (mb.split(x=x, num_splits=heads, axis=1) if heads > 1 else (x,) for x in (scaled, value))
    turned = mb.transpose(x=key, perm=[0, 3, 2, 1])
    keys = mb.split(x=turned, num_splits=heads, axis=3) if heads > 1 else (turned,)
    results = []
    for head, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        scores = mb.einsum(values=(k, q), equation="bkhc,bchq->bkhq")
        if mask is not None:
            scores = mb.add(x=scores, y=_turned_mask(mask, head))
        weights = mb.softmax(x=scores, axis=1)
        results.append(mb.einsum(values=(v, weights), equation="bchk,bkhq->bchq"))
    return mb.concat(values=results, axis=1) if heads > 1 else results[0]


def causal_mask(queries: int, keys: int) -> npt.NDArray[np.float32]:
    """(1, 1, queries, keys): zero for what a query may see, ONNX: the keys up to its own place."""
    return np.triu(np.full((queries, keys), _MASKED, dtype=np.float32), 1)[None, None]


def mask_of(t: Translation, node: ir.Node, query: Var) -> Var | npt.NDArray[Any] | None:
    """Return the mask that is added to the scores: (1 or B, 1 or heads, Sq, Sk) in the type of `query`, or None.

    A mask that the graph computes, such as the position bias of T5, is a variable of the program.
    """
    computed = node.inputs[3] if len(node.inputs) > 3 else None
    if computed is not None and computed.const_value is None:
        bias = t.var(computed)
        return mb.maximum(x=bias, y=plain_like(bias, _MASKED))
    queries, keys = shape_of(node.inputs[0])[-2], shape_of(node.inputs[1])[-2]
    mask: Any = 0.0
    given = t.array(node.inputs[3]) if len(node.inputs) > 3 else None
    if given is not None:
        numbers = np.where(given, 0.0, _MASKED) if given.dtype == np.bool_ else np.maximum(given, _MASKED)
        mask = numbers.reshape((1,) * (4 - numbers.ndim) + numbers.shape)
    if node.attributes.get_int("is_causal", 0):
        mask = mask + causal_mask(queries, keys)
    return (
        None
        if np.ndim(mask) == 0
        else np.asarray(plain_like(query, np.broadcast_to(mask, (*mask.shape[:2], queries, keys))))
    )


def _turned_mask(mask: Var | npt.NDArray[Any], head: int) -> Var | npt.NDArray[Any]:
    """Return the mask of a head for scores (B, Sk, 1, Sq)."""
    if not isinstance(mask, np.ndarray):
        rows, heads, queries, keys = mask.shape
        own = mb.slice_by_size(x=mask, begin=[0, min(head, heads - 1), 0, 0], size=[rows, 1, queries, keys])
        return mb.transpose(x=own, perm=[0, 3, 1, 2])
    one = mask[:, min(head, mask.shape[1] - 1)]
    return np.ascontiguousarray(one.transpose(0, 2, 1)[:, :, None, :])


def _split_heads(q: Var, k: Var, v: Var, heads: int, scale: float, mask: Var | npt.NDArray[Any] | None) -> Var:
    """`split_einsum` for (B, heads, S, width)."""
    batch, _, _, width = q.shape
    flat_q, flat_k, flat_v = (
        mb.reshape(x=mb.transpose(x=x, perm=[0, 1, 3, 2]), shape=[batch, heads * width, 1, x.shape[2]])
        for x in (q, k, v)
    )
    result = split_einsum(flat_q, flat_k, flat_v, heads=heads, scale=scale, mask=mask)
    return mb.transpose(x=mb.reshape(x=result, shape=[batch, heads, width, q.shape[2]]), perm=[0, 1, 3, 2])


def _heads(x: Var, heads: int) -> Var:
    """(B, S, heads * width) to (B, heads, S, width)."""
    batch, tokens, width = x.shape
    return mb.transpose(x=mb.reshape(x=x, shape=[batch, tokens, heads, width // heads]), perm=[0, 2, 1, 3])


def _scaled(x: Var, factor: float) -> Var:
    return x if abs(factor - 1) < 1e-6 else mb.mul(x=x, y=plain_like(x, factor))

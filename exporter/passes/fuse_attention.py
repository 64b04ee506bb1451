"""Fuses attention that is written as matrix products and a softmax."""

import logging
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir import tape

from diffoundry.exporter.passes.opset import OPSET, require_opset
from diffoundry.targets.graph_edit import producer, replace, scalar, sole_user

__all__ = ["FuseAttention"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Match:
    query: ir.Value
    key: ir.Value
    key_order: list[int]
    value: ir.Value
    mask: ir.Value | None
    scale: float
    output: ir.Value


class FuseAttention(ir.passes.InPlacePass):
    """Replaces MatMul, Softmax, MatMul by the standard's Attention.

    Given:
        %kt = Transpose<perm=[0, 1, 3, 2]>(%k)
        %s = Mul(MatMul(%q, %kt), 0.158)
        %p = Softmax<axis=-1>(Add(%s, %mask))
        %y = MatMul(Where(IsNaN(%p), 0, %p), %v)
    Result:
        %y = Attention<scale=0.158>(%q, %k, %v, %mask)

    The scale may be applied to the query, to the key (before or after the transpose) or to the scores, as Mul or Div,
    or be split among them. The key's transpose may have merged with the one that splits its heads. The mask is
    optional. So is the guard that turns the NaN of a wholly masked row into 0: rows of our components are never wholly
    masked. Inputs are (batch, heads, tokens, width), or (batch * heads, tokens, width), which is Attention with one
    head. Torch's exporter writes `scaled_dot_product_attention` as Attention from opset 23 on. This pass is for modules
    that spell it out, such as transformers' "eager" and diffusers' `AttnProcessor`.
    """

    def requires(self, model: ir.Model) -> None:
        """Require opset 23, the first with Attention."""
        require_opset(model, 23, "Attention")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every softmax that matches the pattern."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "Softmax" and node.domain == "":
                match = _match(node)
                if isinstance(match, str):
                    logger.debug("%s is no attention: %s", node.name, match)
                else:
                    _rewrite(node, match)
                    modified = True
        return ir.passes.PassResult(model, modified)


def _match(softmax: ir.Node) -> _Match | str:
    """Bind the pattern's values, or give the reason why it does not match."""
    scores = softmax.inputs[0]
    rank = None if scores is None or scores.shape is None else len(scores.shape)
    if rank not in (3, 4):
        return f"its rank is {rank}, not 3 or 4"
    if softmax.attributes.get_int("axis", -1) not in (-1, rank - 1):
        return "its axis is not the last"
    product = _weighted_sum(softmax.outputs[0])
    if isinstance(product, str):
        return product
    add = producer(scores, "Add")
    if add is None:
        return _bind(scores, None, 1.0, product)
    reasons = []
    for i in (0, 1):
        match = _bind(add.inputs[i], add.inputs[1 - i], 1.0, product)
        if not isinstance(match, str):
            return match
        reasons.append(match)
    return " and ".join(reasons)


def _weighted_sum(weights: ir.Value) -> ir.Node | str:
    """Find the MatMul whose left side is the softmax's output, with or without the guard against NaN."""
    guard = next((node for node in weights.consumers() if node.op_type == "Where"), None)
    if guard is not None:
        test = producer(guard.inputs[0], "IsNaN")
        if test is None or test.inputs[0] is not weights or guard.inputs[2] is not weights:
            return "its Where is no guard against NaN"
        if scalar(guard.inputs[1]) != 0 or len(weights.uses()) != 2:
            return "its guard against NaN does not put 0"
        weights = guard.outputs[0]
    product = sole_user(weights)
    if product is None or product.op_type != "MatMul" or product.inputs[0] is not weights:
        return "its output is not the left side of one MatMul"
    return product


def _bind(scores: ir.Value | None, mask: ir.Value | None, scale: float, product: ir.Node) -> _Match | str:
    scores, factor = _unscaled(scores)
    scale *= factor
    matmul = producer(scores, "MatMul")
    if matmul is None or len(matmul.outputs[0].uses()) != 1:
        return "its input is not one MatMul"
    query, factor = _unscaled(matmul.inputs[0])
    scale *= factor
    transposed, factor = _unscaled(matmul.inputs[1])
    scale *= factor
    transpose = producer(transposed, "Transpose")
    if transpose is None:
        return "the right side of its MatMul is not a transposed key"
    key, factor = _unscaled(transpose.inputs[0])
    scale *= factor
    *front, width, tokens = transpose.attributes.get_ints("perm", ())
    value = product.inputs[1]
    assert query is not None
    assert key is not None
    assert value is not None
    order = [*front, tokens, width]
    return _Match(query=query, key=key, key_order=order, value=value, mask=mask, scale=scale, output=product.outputs[0])


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Split `value` into its source without a multiplication or division by a constant, and that factor."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return value, 1.0
    left, right = node.inputs
    if (factor := scalar(right)) is not None and factor != 0:
        return left, factor if node.op_type == "Mul" else 1 / factor
    if node.op_type == "Mul" and (factor := scalar(left)) is not None:
        return right, factor
    return value, 1.0


def _rewrite(softmax: ir.Node, match: _Match) -> None:
    attributes: dict[str, float | int] = {"scale": match.scale}
    if match.output.shape is not None and len(match.output.shape) == 3:
        attributes |= {"q_num_heads": 1, "kv_num_heads": 1}
    builder = tape.Tape()
    key = match.key
    if match.key_order != sorted(match.key_order):
        key = builder.op("Transpose", [key], {"perm": match.key_order}, version=OPSET)
        key.type = match.key.type
        key.shape = None if match.key.shape is None else ir.Shape([match.key.shape[i] for i in match.key_order])
    inputs = [match.query, key, match.value] + ([match.mask] if match.mask is not None else [])
    replace(match.output, builder.op("Attention", inputs, attributes, name=softmax.name, version=OPSET), builder.nodes)

"""Quantizes float graphs with other tools: NNCF's two recipes for OpenVINO, ONNX Runtime's quantize_static."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["TOOLS"]

Feeds = Mapping[str, np.ndarray]


def nncf_ptq(graph: Path, output: Path, calls: Sequence[Feeds], component: str) -> None:  # noqa: ARG001
    """Apply post-training quantization with the preset and model type that NNCF's documents name for diffusion."""
    import nncf
    import openvino

    model = openvino.Core().read_model(graph)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(list(calls)),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calls),
    )
    openvino.save_model(quantized, output, compress_to_fp16=False)


def nncf_hybrid(graph: Path, output: Path, calls: Sequence[Feeds], component: str) -> None:
    """Apply Optimum Intel's hybrid recipe: the UNet's linear layers weight-only, its other layers with activations.

    optimum-intel 1.2x, `optimum/intel/openvino/quantization.py`: `_hybrid_quantization`; the other components get
    weights of 8 bits.
    """
    import nncf
    import openvino

    model = openvino.Core().read_model(graph)
    if component != "unet":
        openvino.save_model(
            nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM), output, compress_to_fp16=False
        )
        return
    linear = [op.get_friendly_name() for op in model.get_ops() if _has_weight(op)]
    convolutions = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "Convolution"]
    compressed = nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=nncf.IgnoredScope(names=convolutions)
    )
    quantized = nncf.quantize(
        compressed,
        nncf.Dataset(list(calls)),
        subset_size=len(calls),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=linear, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1)
        ),
    )
    openvino.save_model(quantized, output, compress_to_fp16=False)


def _has_weight(op: Any) -> bool:
    """Return whether it is a MatMul or an embedding with a constant."""
    if op.get_type_name() not in {"MatMul", "Gather"}:
        return False
    for value in op.input_values():
        node = value.get_node()
        while node.get_type_name() in {"Convert", "Multiply", "Reshape", "Transpose"}:
            node = node.input_value(0).get_node()
        if node.get_type_name() == "Constant" and len(value.get_partial_shape()) > 1:
            return True
    return False


def ort_static(graph: Path, output: Path, calls: Sequence[Feeds], component: str) -> None:  # noqa: ARG001
    """Apply `quantize_static` as its documents show for QDQ on CPUs: all supported operators, weights by channel."""
    _quantize_static(graph, output, calls)


def ort_static_layers(graph: Path, output: Path, calls: Sequence[Feeds], component: str) -> None:  # noqa: ARG001
    """Apply it only to the layers with weights, and without zero points by default."""
    _quantize_static(graph, output, calls, op_types_to_quantize=["Conv", "MatMul", "Gemm"])


def _quantize_static(graph: Path, output: Path, calls: Sequence[Feeds], **options: Any) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(calls)

        def get_next(self) -> dict[str, np.ndarray] | None:
            feeds = next(self._left, None)
            return None if feeds is None else dict(feeds)

    quantize_static(
        str(graph),
        str(output),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=graph.with_name("model.onnx_data").is_file() and graph.stat().st_size > 2 << 30,
        **options,
    )


TOOLS = {
    "openvino": {"NNCF post-training": nncf_ptq, "NNCF hybrid": nncf_hybrid},
    "onnxruntime": {"quantize_static": ort_static, "quantize_static, layers": ort_static_layers},
}

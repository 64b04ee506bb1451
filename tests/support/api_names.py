"""Names of TensorRT's Python modules that this target uses, and a record of those that a module has.

    python api_names.py tensorrt_bindings > recorded/api_tensorrt_11_4.json

was run with `tensorrt-cu13-bindings` 11.4.0.106 alone, whose extension module imports over three empty shared
libraries (libnvinfer.so.11, libnvinfer_plugin.so.11, libnvonnxparser.so.11) that define the nine functions it looks up.
Nothing can be built that way, but every class is there. Only names are kept.
"""

import ast
import importlib
import json
import sys
from pathlib import Path

BACKEND = Path(__file__).parents[2] / "targets" / "tensorrt"

USED = {
    "Builder": "build_serialized_network create_builder_config create_network create_optimization_profile",
    "BuilderFlag": "REFIT_INDIVIDUAL STRIP_PLAN TF32 VERSION_COMPATIBLE WEIGHT_STREAMING",
    "ComputeCapability": "SM75 SM80 SM86 SM89 SM120 SM121",
    "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
    "DataType": "__members__",
    "EngineInvalidityDiagnostics": "CUDA_ERROR INSUFFICIENT_GPU_MEMORY MALFORMED_ENGINE OLD_CUDA_DRIVER "
    "OLD_CUDA_RUNTIME UNSUPPORTED_CC VERSION_MISMATCH __members__",
    "EngineValidity": "INVALID",
    "IAttention": "decomposable",
    "IAttentionInputLayer": "attention",
    "IBuilderConfig": "add_optimization_profile clear_flag create_timing_cache get_timing_cache "
    "num_compute_capabilities profiling_verbosity progress_monitor set_compute_capability set_flag set_timing_cache",
    "ICudaEngine": "create_execution_context create_runtime_config get_tensor_dtype get_tensor_mode get_tensor_name "
    "get_tensor_profile_shape get_tensor_shape get_weight_streaming_automatic_budget num_io_tensors "
    "num_optimization_profiles weight_streaming_budget_v2",
    "IExecutionContext": "execute_async_v3 get_tensor_shape set_input_shape set_optimization_profile_async "
    "set_tensor_address",
    "IHostMemory": "nbytes",
    "ILayer": "type",
    "ILogger": "__init__ log",
    "INetworkDefinition": "get_layer mark_weights_refittable num_layers",
    "IOptimizationProfile": "set_shape",
    "IProgressMonitor": "__init__ phase_finish phase_start step_complete",
    "IRuntimeCache": "deserialize serialize",
    "IRuntimeConfig": "create_runtime_cache cuda_graph_strategy set_runtime_cache",
    "ITimingCache": "combine serialize",
    "LayerType": "ATTENTION_INPUT",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "OnnxParser": "get_error num_errors parse_from_file",
    "OnnxParserRefitter": "refit_from_file",
    "ParserError": "code desc func node_name node_operator",
    "ProfilingVerbosity": "DETAILED",
    "Refitter": "get_missing_weights refit_cuda_engine set_named_weights",
    "Runtime": "deserialize_cuda_engine engine_header_size engine_host_code_allowed get_engine_validity",
    "TensorIOMode": "INPUT OUTPUT",
    "Weights": "__init__",
}
"""Class to the members that the target's code uses."""

ONLY_RTX = {
    "ComputeCapability": None,
    "CudaGraphStrategy": None,
    "EngineInvalidityDiagnostics": None,
    "EngineValidity": None,
    "IBuilderConfig": "num_compute_capabilities set_compute_capability",
    "IRuntimeCache": None,
    "IRuntimeConfig": "create_runtime_cache cuda_graph_strategy set_runtime_cache",
    "Runtime": "engine_header_size get_engine_validity",
}
"""What of it TensorRT does not have (None: the whole class): the code reaches it through the flags of `Sdk`."""


def members(table):
    """{class: set of members} of a table above."""
    return {name: set((words or "").split()) for name, words in table.items()}


def mentioned():
    """Every attribute in the target's code, and the names directly on a module called `trt`."""
    attributes, direct = set(), set()
    for path in sorted(BACKEND.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                attributes.add(node.attr)
                owner = node.value
                if (isinstance(owner, ast.Name) and owner.id == "trt") or getattr(owner, "attr", "") == "trt":
                    direct.add(node.attr)
    return attributes, direct


def present(module):
    """Of `USED`, what a module has."""
    return {
        name: sorted(member for member in words if hasattr(getattr(module, name), member))
        for name, words in members(USED).items()
        if hasattr(module, name)
    }


if __name__ == "__main__":
    given = importlib.import_module(sys.argv[1])
    record = {"module": sys.argv[1], "version": given.__version__, "names": present(given)}
    sys.stdout.write(json.dumps(record, indent=1) + "\n")

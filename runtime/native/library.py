"""Selects the compiled attention extension for OpenVINO, when it fits the processor and the OpenVINO release."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from diffoundry.runtime.native.kernel import AttentionKernel, attention_kernel, installed_file

__all__ = ["attention_library", "describe_attention"]

_EXTENSION = "libdiffoundry_attention_openvino.so"
_PRECISIONS = ("bf16", "fp16", "fp32")


def attention_library() -> Path | None:
    """Path of the extension for `openvino.Core.add_extension`, or None; `describe_attention` gives the reason.

    Raises:
        EngineError: A library is there that cannot be loaded.
    """
    found = _find()
    return found if isinstance(found, Path) else None


def describe_attention() -> str:
    """Describe the code that computes attention in OpenVINO's engines here.

    Raises:
        EngineError: A library is there that cannot be loaded.
    """
    found, kernel = _find(), attention_kernel()
    if isinstance(found, str) or kernel is None:
        return f"OpenVINO ({found})"
    return f"native code: {', '.join(f'{name} by {kernel.best_path(name)}' for name in _PRECISIONS)} ({found})"


def _find() -> Path | str:
    """The extension, or the reason why there is none."""
    kernel = attention_kernel()
    if kernel is None:
        return "the native attention kernel is not installed"
    return _unfit(kernel) or installed_file(_EXTENSION) or f"{_EXTENSION} is not beside {kernel.path}"


def _unfit(kernel: AttentionKernel) -> str | None:
    if kernel.best_path("fp32") == "none":
        return "this processor has neither AVX2 nor AVX-512"
    if not kernel.openvino:
        return "the native attention kernel was built without OpenVINO"
    try:
        installed = version("openvino")
    except PackageNotFoundError:
        return "OpenVINO is not installed"
    if installed != kernel.openvino:
        return f"the native attention kernel was built against OpenVINO {kernel.openvino}, installed is {installed}"
    return None

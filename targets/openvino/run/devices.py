"""Devices that OpenVINO finds on this machine, and the precisions that they compute in natively."""

from functools import cache
from pathlib import Path

from diffoundry.runtime.errors import EngineError
from diffoundry.targets.openvino.import_openvino import ov

__all__ = ["WEIGHTS_ONLY", "add_extension", "core", "devices", "execution_precision", "precisions", "vendor_name"]

_FLOATS = {"BF16": "bf16", "FP16": "fp16", "FP32": "fp32"}
_ORDER = {"CPU": ("BF16", "FP32", "FP16")}
"""Fastest first. A CPU with BF16 has it in its matrix unit or its dot products, FP16 in neither."""

_GPU_ORDER = ("FP16", "FP32", "BF16")

WEIGHTS_ONLY = ("int8-weights", "int4-weights")
"""Precisions whose activations are floats."""


@cache
def add_extension(library: Path) -> None:
    """Let the registry know the operations of a compiled library."""
    core().add_extension(str(library))


@cache
def core() -> ov.Core:
    """OpenVINO's registry of devices, one a process: a second one would load the plugins again."""
    return ov.Core()


def devices() -> tuple[str, ...]:
    """List the devices that OpenVINO finds on this machine: "cpu", "gpu", "gpu:1", "npu", and "auto"."""
    found = [_our_name(name) for name in core().available_devices]
    return (*found, "auto") if found else ()


def precisions(device: str) -> tuple[str, ...]:
    """List the precisions that `device` computes in natively, fastest first; "auto" has those that all devices have.

    Weights in int8 or int4 only save storage: every device decompresses them.

    Raises:
        EngineError: There is no such device.
    """
    names = [vendor_name(each) for each in devices() if each != "auto"] if device == "auto" else [vendor_name(device)]
    common = set.intersection(*(_capabilities(name) for name in names))
    order = _ORDER.get(names[0].partition(".")[0], _GPU_ORDER)
    floats = [_FLOATS[word] for word in order if word in common]
    return (*floats, *(("int8",) if "INT8" in common else ()), *WEIGHTS_ONLY)


def execution_precision(precision: str, device: str) -> str:
    """Return the type that an engine of `precision` computes floats in: "fp32", "fp16" or "bf16".

    The floats of a quantized engine are the fastest ones of the device. OpenVINO left alone would do
    that to an engine of float32, too, where the CPU has bf16.

    Raises:
        EngineError: The device does not support `precision` natively.
    """
    native = precisions(device)
    if precision not in native:
        raise EngineError(
            f"precision: got {precision!r}, expected one of {', '.join(native)}, which the device {device!r} "
            f"supports natively; choose another engine of the bundle, or add one with 'diffoundry build'"
        )
    return precision if precision in _FLOATS.values() else native[0]


def vendor_name(device: str) -> str:
    """OpenVINO's name of a device of ours: "gpu:1" is "GPU.1".

    Raises:
        EngineError: There is no such device on this machine.
    """
    if device not in devices():
        raise EngineError(
            f"device: got {device!r}, expected one of {', '.join(devices())} (OpenVINO {ov.__version__} on this "
            f"machine); a GPU or NPU that is missing needs its driver installed"
        )
    return device.upper().replace(":", ".")


def _our_name(name: str) -> str:
    return name.lower().replace(".", ":")


def _capabilities(name: str) -> set[str]:
    return set(core().get_property(name, "OPTIMIZATION_CAPABILITIES"))

"""OpenVINO, imported without its telemetry.

The import alone reports itself over the network, from threads that fork the process: users did not ask for the first,
and OpenBLAS, which NumPy calls, may wait for ever after the second. OpenVINO has a stub for the case that the package
which does it is not installed.
"""

import sys

__all__ = ["TELEMETRY", "offline", "ops", "ov"]

TELEMETRY = "openvino_telemetry"

if "openvino" not in sys.modules and TELEMETRY not in sys.modules:
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say: not to be imported
    try:
        import openvino as ov
    finally:
        del sys.modules[TELEMETRY]
else:
    import openvino as ov

from openvino import _offline_transformations as offline  # noqa: E402
from openvino import opset13 as ops  # noqa: E402  # the lines above come first

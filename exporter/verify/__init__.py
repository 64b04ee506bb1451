"""Compares a bundle with its PyTorch checkpoint: components, every step, images, configs.

from diffoundry.exporter.verify import verify
report = verify("emoji.bundle")

Submodules load on first use, so that the command line can check its arguments without PyTorch.
"""

from typing import TYPE_CHECKING, Any

from diffoundry.runtime.engines.plugins import resolve

if TYPE_CHECKING:
    from diffoundry.exporter.verify.checks.gates import GATES, Gates
    from diffoundry.exporter.verify.cross_engine import compare_engines
    from diffoundry.exporter.verify.progress import ImagePair, VerifyProgress
    from diffoundry.exporter.verify.report.cross_engine_report import (
        CROSS_ENGINE_SCHEMA_VERSION,
        CrossEngineReport,
        PairDistance,
        Participant,
    )
    from diffoundry.exporter.verify.report.report import (
        SCHEMA_VERSION,
        Absence,
        Check,
        VariantReport,
        VerifyReport,
        report_to_json,
    )
    from diffoundry.exporter.verify.request import VerifyRequest
    from diffoundry.exporter.verify.run import verify

__all__ = [
    "CROSS_ENGINE_SCHEMA_VERSION",
    "GATES",
    "SCHEMA_VERSION",
    "Absence",
    "Check",
    "CrossEngineReport",
    "Gates",
    "ImagePair",
    "PairDistance",
    "Participant",
    "VariantReport",
    "VerifyProgress",
    "VerifyReport",
    "VerifyRequest",
    "compare_engines",
    "report_to_json",
    "verify",
]

_LAZY = {
    "CROSS_ENGINE_SCHEMA_VERSION": "diffoundry.exporter.verify.report.cross_engine_report:CROSS_ENGINE_SCHEMA_VERSION",
    "GATES": "diffoundry.exporter.verify.checks.gates:GATES",
    "SCHEMA_VERSION": "diffoundry.exporter.verify.report.report:SCHEMA_VERSION",
    "Absence": "diffoundry.exporter.verify.report.report:Absence",
    "Check": "diffoundry.exporter.verify.report.report:Check",
    "CrossEngineReport": "diffoundry.exporter.verify.report.cross_engine_report:CrossEngineReport",
    "Gates": "diffoundry.exporter.verify.checks.gates:Gates",
    "ImagePair": "diffoundry.exporter.verify.progress:ImagePair",
    "PairDistance": "diffoundry.exporter.verify.report.cross_engine_report:PairDistance",
    "Participant": "diffoundry.exporter.verify.report.cross_engine_report:Participant",
    "VariantReport": "diffoundry.exporter.verify.report.report:VariantReport",
    "VerifyProgress": "diffoundry.exporter.verify.progress:VerifyProgress",
    "VerifyReport": "diffoundry.exporter.verify.report.report:VerifyReport",
    "VerifyRequest": "diffoundry.exporter.verify.request:VerifyRequest",
    "compare_engines": "diffoundry.exporter.verify.cross_engine:compare_engines",
    "report_to_json": "diffoundry.exporter.verify.report.report:report_to_json",
    "verify": "diffoundry.exporter.verify.run:verify",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_LAZY[name])


def __dir__() -> list[str]:
    return sorted(_LAZY)

"""Compares a bundle with its PyTorch checkpoint: components, every step, images, configs.

from diffoundry.exporter.verify import verify
report = verify("emoji.bundle")
"""

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

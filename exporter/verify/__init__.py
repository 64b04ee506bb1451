"""Compares a bundle with its PyTorch checkpoint: components, every step, images, configs.

from diffoundry.exporter.verify import verify
report = verify("emoji.bundle")
"""

from diffoundry.exporter.verify.checks.gates import GATES, Gates
from diffoundry.exporter.verify.cross_engine import verify_across
from diffoundry.exporter.verify.progress import ImagePair, Watch
from diffoundry.exporter.verify.report.cross_engine_report import (
    ACROSS_SCHEMA_VERSION,
    AcrossReport,
    PairDistance,
    Participant,
)
from diffoundry.exporter.verify.report.report import (
    SCHEMA_VERSION,
    Absence,
    BuildReport,
    Check,
    VerifyReport,
    report_to_json,
)
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.exporter.verify.run import verify

__all__ = [
    "ACROSS_SCHEMA_VERSION",
    "GATES",
    "SCHEMA_VERSION",
    "Absence",
    "AcrossReport",
    "BuildReport",
    "Check",
    "Gates",
    "ImagePair",
    "PairDistance",
    "Participant",
    "VerifyReport",
    "VerifyRequest",
    "Watch",
    "report_to_json",
    "verify",
    "verify_across",
]

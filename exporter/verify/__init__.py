"""Compares a bundle with the PyTorch checkpoint it was made from: components, every step, pictures, configs.

from diffoundry.exporter.verify import verify
report = verify("emoji.bundle")
"""

from diffoundry.exporter.verify.across import verify_across
from diffoundry.exporter.verify.across_report import ACROSS_SCHEMA_VERSION, AcrossReport, Painter, PairDistance
from diffoundry.exporter.verify.compare import verify
from diffoundry.exporter.verify.gates import GATES, Gates
from diffoundry.exporter.verify.report import (
    SCHEMA_VERSION,
    Absence,
    BuildReport,
    Check,
    VerifyReport,
    report_to_json,
)
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.exporter.verify.watch import PicturePair, Watch

__all__ = [
    "ACROSS_SCHEMA_VERSION",
    "GATES",
    "SCHEMA_VERSION",
    "Absence",
    "AcrossReport",
    "BuildReport",
    "Check",
    "Gates",
    "Painter",
    "PairDistance",
    "PicturePair",
    "VerifyReport",
    "VerifyRequest",
    "Watch",
    "report_to_json",
    "verify",
    "verify_across",
]

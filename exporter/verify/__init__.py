"""Compares a bundle with the PyTorch checkpoint it was made from: components, every step, pictures, configs.

from diffoundry.exporter.verify import verify
report = verify("emoji.bundle")
"""

from diffoundry.exporter.verify.compare import verify
from diffoundry.exporter.verify.gates import GATES, Gates
from diffoundry.exporter.verify.report import SCHEMA_VERSION, Check, VerifyReport, report_to_json
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.exporter.verify.watch import PicturePair, Watch

__all__ = [
    "GATES",
    "SCHEMA_VERSION",
    "Check",
    "Gates",
    "PicturePair",
    "VerifyReport",
    "VerifyRequest",
    "Watch",
    "report_to_json",
    "verify",
]

"""Compares every component of the bundle with PyTorch on recorded inputs."""

import math
from collections.abc import Iterator, Sequence

from diffoundry.exporter.verify.checks.gates import Gates
from diffoundry.exporter.verify.checks.metrics import TensorDistance, measure
from diffoundry.exporter.verify.reference.component_cases import ComponentCase
from diffoundry.exporter.verify.report.report import Check, OutputResult, at_least, at_most, holds
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError

__all__ = ["compare_component"]


def compare_component(
    components: EngineSession, name: str, cases: Sequence[ComponentCase], gates: Gates
) -> tuple[list[OutputResult], list[Check]]:
    """Run a component on its cases: one result per case and output, four checks per output, each on its worst case.

    Inputs that the component lacks, and outputs that are missing or of another shape, are failed checks too.

    Raises:
        EngineError: The component cannot be opened, or its engine failed.
    """
    results: dict[str, list[OutputResult]] = {}
    checks: list[Check] = []
    if not cases:
        checks.append(holds("component", name, "compared", "no reference for it", "compared"))
    for case in cases:
        try:
            outputs = components.run(name, case.feeds)
        except InputError as error:
            checks.append(holds("component", name, f"inputs, {case.label}", str(error), "taken"))
            continue
        for output, expected in case.expected.items():
            fault = _shape_fault(outputs.get(output), expected)
            if fault is not None:
                checks.append(holds("component", f"{name} {output}", f"shape, {case.label}", fault))
                continue
            distance = measure(outputs[output], expected)
            result = OutputResult(component=name, output=output, case=case.label, distance=distance)
            results.setdefault(output, []).append(result)
    for output, group in results.items():
        checks += _judge(f"{name} {output}", group, gates)
    return [result for group in results.values() for result in group], checks


def _shape_fault(output: Array | None, expected: Array) -> str | None:
    if output is None:
        return f"missing, expected {expected.shape}"
    return None if output.shape == expected.shape else f"{output.shape}, expected {expected.shape}"


def _judge(subject: str, results: Sequence[OutputResult], gates: Gates) -> Iterator[Check]:
    """Make one check per measure, on its worst case."""
    for field, words in (("relative_max", "max abs error / range"), ("relative_rms", "relative RMS error")):
        value, case = _worst(results, field, largest=True)
        yield at_most("component", subject, words, value, getattr(gates, field), case)
    for field, words in (("cosine", "cosine"), ("psnr", "PSNR, dB")):
        value, case = _worst(results, field, largest=False)
        yield at_least("component", subject, words, value, getattr(gates, field), case)


def _worst(results: Sequence[OutputResult], field: str, *, largest: bool) -> tuple[float, str]:
    """Find the worst value of a field of `TensorDistance` and its case; NaN is worse than any number."""
    assert field in TensorDistance.__dataclass_fields__
    sign = 1 if largest else -1

    def badness(result: OutputResult) -> tuple[bool, float]:
        value = float(getattr(result.distance, field))
        return math.isnan(value), sign * value

    worst = max(results, key=badness)
    return float(getattr(worst.distance, field)), worst.case

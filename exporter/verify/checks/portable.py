"""Runs the portable graphs of a bundle, from which `diffoundry build` makes engines, on the recorded inputs."""

from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnx_ir as ir

from diffoundry.exporter.verify.checks.components import compare_component
from diffoundry.exporter.verify.checks.gates import gates_for
from diffoundry.exporter.verify.reference.component_cases import ComponentCase
from diffoundry.exporter.verify.report.report import Check, holds
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.engines.protocol import Engine, EngineOptions
from diffoundry.runtime.engines.select import EngineSelection
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.base import tensor_specs

__all__ = ["check_portable"]

_TARGET = "onnxruntime"


class _PortableGraphs(EngineSession):
    """Opens the portable graph of each component in ONNX Runtime, as if it were an engine of the bundle."""

    def choice(self, name: str) -> EngineSelection:
        """Describe the portable graph as an engine.

        Raises:
            BundleError: The bundle has no such component, or a file of it was changed.
        """
        assert self.bundle.manifest is not None
        files = self.bundle.manifest.components[name].graph
        path = [self.bundle.file(file) for file in files][0]  # noqa: RUF015  # all are checked
        graph = onnx.load(path, load_external_data=False).graph
        spec = EngineSpec(
            target=_TARGET,
            precision="fp32",
            files=files,
            inputs=_specs(graph.input),
            outputs=_specs(graph.output),
        )
        return EngineSelection(spec=spec, device="cpu", skipped=())

    def _open(self, name: str) -> Engine:
        from diffoundry.exporter.verify.checks.portable_engine import PortableEngine  # imports ONNX Runtime

        spec = self.choice(name).spec
        return PortableEngine(self.bundle.file(spec.files[0]), spec, self._options)


def check_portable(bundle: Bundle, cases: Sequence[ComponentCase], options: EngineOptions) -> Iterator[Check]:
    """Compare the outputs of every portable graph with PyTorch's by the gates of fp32. One check each.

    Args:
        bundle: The bundle; nothing runs without a manifest, or without ONNX Runtime.
        cases: Inputs and PyTorch's outputs.
        options: Threads.
    """
    if bundle.manifest is None or not find_plugin(_TARGET).installed:
        return
    session = _PortableGraphs(bundle, options=EngineOptions(threads=options.threads))
    try:
        for name in bundle.components:
            mine = [case for case in cases if case.component == name]
            subject = bundle.manifest.components[name].graph[0]
            try:
                _, judged = compare_component(session, name, mine, gates_for("fp32"))
            except EngineError as error:
                yield holds("graph", subject, "outputs", str(error), "as PyTorch's")
                continue
            failed = [check for check in judged if not check.passed]
            fault = _sentence(failed[0]) if failed else None
            yield holds("graph", subject, "outputs", fault, "as PyTorch's")
    finally:
        session.close()


def _specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tensor_specs([ir.serde.deserialize_value_info_proto(value, None) for value in values])


def _sentence(check: Check) -> str:
    value = check.measured if isinstance(check.measured, str) else f"{check.measured:.3g}"
    return f"{check.subject}: {check.measure} {value}, expected {check.gate}"

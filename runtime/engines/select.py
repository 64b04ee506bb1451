"""Selects the engine of a component: the first that is requested, built, installed and native to the device."""

from collections.abc import Mapping
from dataclasses import dataclass

from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.engines.plugins import TargetPlugin, list_plugins
from diffoundry.runtime.errors import DiffoundryError, EngineError
from diffoundry.runtime.install_hint import install_command
from diffoundry.runtime.suggest import did_you_mean

__all__ = ["EngineSelection", "check_request", "find_obstacle", "select_engine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSelection:
    """The engine that runs a component here, and the reasons against those before it.

    Attributes:
        spec: The engine.
        device: Its device, as the target names it.
        skipped: One sentence for every engine before it in the bundle that fits the request.
    """

    spec: EngineSpec
    device: str
    skipped: tuple[str, ...]


def select_engine(
    component: str,
    specs: tuple[EngineSpec, ...],
    target: str | None = None,
    precision: str | None = None,
    device: str | None = None,
) -> EngineSelection:
    """Return the first requested engine that can run here: built, its library installed, its precision native.

    Raises:
        EngineError: None can; the message lists the engines of the bundle with the reasons.
    """
    plugins = {plugin.name: plugin for plugin in list_plugins()}
    wanted = _requested(component, specs, target, precision, plugins)
    skipped: list[str] = []
    for spec in wanted:
        reason, place = _obstacle(spec, plugins.get(spec.target), device)
        if reason is None:
            return EngineSelection(spec=spec, device=place, skipped=tuple(skipped))
        skipped.append(f"{spec.target} {spec.precision}: {reason}")
    raise EngineError(f"component {component!r}: no engine of the bundle can run here. {'. '.join(skipped)}")


def find_obstacle(spec: EngineSpec) -> str | None:
    """Return the reason why an engine cannot run on this machine, or None."""
    plugins = {plugin.name: plugin for plugin in list_plugins()}
    try:
        return _obstacle(spec, plugins.get(spec.target), None)[0]
    except DiffoundryError as error:
        return str(error)


def check_request(component: str, specs: tuple[EngineSpec, ...], target: str | None, precision: str | None) -> None:
    """Refuse a request that no engine of a component fulfils, as far as can be told without a vendor's library.

    Raises:
        EngineError: The bundle has no such engine, or none of them is built and has its library installed.
    """
    plugins = {plugin.name: plugin for plugin in list_plugins()}
    wanted = _requested(component, specs, target, precision, plugins)
    reasons = [(spec, _missing_part(spec, plugins.get(spec.target))) for spec in wanted]
    if all(reason is not None for _, reason in reasons):
        skipped = ". ".join(f"{spec.target} {spec.precision}: {reason}" for spec, reason in reasons)
        raise EngineError(f"component {component!r}: no engine of the bundle can run here. {skipped}")


def _requested(
    component: str,
    specs: tuple[EngineSpec, ...],
    target: str | None,
    precision: str | None,
    plugins: Mapping[str, TargetPlugin],
) -> list[EngineSpec]:
    """Return the engines of a target and a precision.

    Raises:
        EngineError: There is none; the message lists those of the bundle.
    """
    if not specs:
        raise EngineError(
            f"component {component!r}: the bundle has no engine of it, as an interrupted build of an earlier version "
            f"leaves it; run 'diffoundry build' on the bundle to add those of its recipe"
        )
    wanted = [s for s in specs if target in (None, s.target) and precision in (None, s.precision)]
    if not wanted:
        held = ", ".join(f"{spec.target} {spec.precision}" for spec in specs)
        asked = " ".join(word for word in (target, precision) if word)
        raise EngineError(
            f"component {component!r}: got no engine for {asked}, the bundle holds {held}; "
            f"add it with 'diffoundry build' and --target and --precision, or ask for one of those"
            f"{_suggest(target, {*plugins, *(spec.target for spec in specs)})}"
        )
    return wanted


def _suggest(target: str | None, known: set[str]) -> str:
    """Suggest the nearest target for a word that names none, or return nothing."""
    suggestion = did_you_mean(target, sorted(known)) if target and target not in known else ""
    return suggestion and f".{suggestion}"


def _missing_part(spec: EngineSpec, plugin: TargetPlugin | None) -> str | None:
    """Return what an engine lacks to run on any machine like this one: its target, its building or its library."""
    if plugin is None:
        return f"no target of this name is installed; install the package that provides {spec.target!r}"
    if spec.pending is not None:
        return f"not built yet ({spec.pending}); run 'diffoundry build' on the machine it is for"
    if not plugin.installed:
        return f"its library is not installed; install it with: {install_command(plugin.extra)}"
    return None


def _obstacle(spec: EngineSpec, plugin: TargetPlugin | None, device: str | None) -> tuple[str | None, str]:
    """Return the reason why an engine cannot run here, or None, and the device it would run on."""
    missing = _missing_part(spec, plugin)
    if missing is not None or plugin is None:
        return missing, ""
    place = device
    if place is None:
        devices = plugin.load("devices")()
        if not devices:
            return "it has no device on this machine; use another target here", ""
        place = str(devices[0])
    native = plugin.load("precisions")(place)
    if spec.precision not in native:
        computes = ", ".join(native) or "none that we have"
        return f"the device {place!r} does not compute in {spec.precision} itself (it has {computes})", place
    return None, place

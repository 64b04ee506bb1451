"""The engines under contract: every installed target that can run here, and fakes for hardware that is not here."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from engine_graphs import write_graph

from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.engines.plugins import list_plugins
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.targets.base import Lowering

DIMS = {
    "batch": DimSpec(min=1, max=4),
    "height": DimSpec(min=8, max=64, multiple_of=8),
    "width": DimSpec(min=8, max=64, multiple_of=8),
}

SIZE = (16, 16)
"""Height and width in pixels."""


@dataclass
class Backend:
    """One target with a device that runs its engines.

    Attributes:
        plugin: The target's plugin.
        device: A device of the plugin.
        options: Build options.
        buckets: Sizes to build for; none for targets that take a range.
    """

    plugin: object
    device: str
    folder: Path
    options: dict = field(default_factory=dict)
    buckets: tuple = ()

    def lower(self, name, batch=None):
        """Lower a graph of `engine_graphs.GRAPHS` once.

        Returns:
            The bundle's folder and the manifest entry.
        """
        bundle = self.folder / f"{name}-{batch}"
        component, role = ("text_encoder", "text_encoder") if name == "tokens" else ("unet", "denoiser")
        if not bundle.is_dir():
            graph = write_graph(name, bundle, component, batch)
            work = Lowering(
                component=component,
                role=role,
                graph=graph,
                bundle=bundle,
                precision="fp32",
                dims=DIMS,
                buckets=self.buckets,
            )
            self._specs[bundle] = self.plugin.make_target(self.options).lower(work)
        return bundle, self._specs[bundle]

    _specs: dict = field(default_factory=dict)

    def open(self, name, batch=None, *, adapters=None, **options):
        """Open the engine of a graph."""
        bundle, spec = self.lower(name, batch)
        if spec.pending is not None:
            pytest.skip(f"the engine cannot be built here: {spec.pending}")
        more = {} if adapters is None else {"adapters": adapters}
        opener = self.plugin.load("engine")
        return opener(bundle / spec.files[0], spec, EngineOptions(device=self.device, **options), **more)


def names():
    """List the installed targets."""
    return [plugin.name for plugin in list_plugins() if plugin.installed]


def make_backend(name, folder, monkeypatch):
    """Build the backend of an installed target: on this machine's hardware where it runs, else on a fake of it."""
    plugin = next(plugin for plugin in list_plugins() if plugin.name == name)
    buckets = (SIZE,) if name == "coreml" else ()
    if not plugin.load("devices")():
        install = _FAKES.get(name)
        if install is None:
            pytest.skip(f"target {name!r} finds no device on this machine, and there is no fake for it")
        options = install(folder, monkeypatch)
    else:
        options = {}
    return Backend(plugin, plugin.load("devices")()[0], folder, options, buckets)


def _fake_rtx(folder, monkeypatch):
    from fake_machine import install_fakes

    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    install_fakes(monkeypatch, folder)
    return {"compute_capabilities": ("sm89",), "refit": True}


def _fake_mac(_folder, monkeypatch):
    from coreml_interpreter.fake_coremltools import install_fake

    install_fake(monkeypatch)
    return {}


_FAKES = {"coreml": _fake_mac, "tensorrt-rtx": _fake_rtx}

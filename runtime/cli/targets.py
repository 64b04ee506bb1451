"""`diffoundry targets`: lists targets, whether they are installed, and their devices here."""

from typing import Any

import click

from diffoundry.runtime.cli.completion import complete_target
from diffoundry.runtime.cli.console import make_table, out, print_json
from diffoundry.runtime.cli.help import Command
from diffoundry.runtime.cli.options import json_option
from diffoundry.runtime.cli.target_options import describe_options
from diffoundry.runtime.engines.plugins import TargetPlugin, find_plugin, list_plugins
from diffoundry.runtime.install_hint import install_command

__all__ = ["command"]


@click.command("targets", cls=Command, examples=("diffoundry targets", "diffoundry targets openvino"))
@click.argument("name", required=False, shell_complete=complete_target)
@json_option
def command(name: str | None, *, as_json: bool) -> None:
    """List targets, whether their libraries are installed, and their devices here; or list the options of NAME."""
    if name is not None:
        _show_options(name, as_json=as_json)
        return
    rows = [_describe(plugin) for plugin in list_plugins()]
    if as_json:
        print_json(rows)
        return
    table = make_table("target", "here", "what")
    for row in rows:
        table.add_row(row["name"], _state(row), ": ".join(filter(None, [row["summary"], ", ".join(row["precisions"])])))
    out.print(table)
    for row in rows:
        if not row["installed"]:
            out.print(f"{row['name']}: install it with: {row['install']}", soft_wrap=True)


def _state(row: dict[str, Any]) -> str:
    """Describe what works on this machine: the devices that run, or building alone."""
    if not row["installed"]:
        return "not installed"
    if row["devices"]:
        return f"runs on {', '.join(row['devices'])}"
    return "builds here, cannot run" if row["builds_here"] else "cannot build or run: no device"


def _show_options(name: str, *, as_json: bool) -> None:
    """List what a target's devices here compute, and the options that it adds to `diffoundry export`."""
    options = describe_options(name)
    if as_json:
        print_json(options)
        return
    plugin = find_plugin(name)
    out.print(f"{plugin.summary}: {', '.join(plugin.compiles)}", soft_wrap=True)
    for device in plugin.load("devices")() if plugin.installed else ():
        out.print(f"{device} computes in {', '.join(plugin.load('precisions')(device))}", soft_wrap=True)
    table = make_table("option", "takes")
    for option, wanted in options.items():
        table.add_row(option, wanted)
    out.print(table)


def _describe(plugin: TargetPlugin) -> dict[str, Any]:
    devices = list(plugin.load("devices")()) if plugin.installed else []
    return {
        "name": plugin.name,
        "summary": plugin.summary,
        "precisions": list(plugin.compiles),
        "installed": plugin.installed,
        "devices": devices,
        "builds_here": plugin.installed and (plugin.builds_anywhere or bool(devices)),
        "install": install_command(plugin.extra),
    }

"""`diffoundry targets`: lists targets, whether they are installed, and their devices here."""

from typing import Any

import click
from rich.markup import escape
from rich.table import Column, Table

from diffoundry.runtime.cli.console import out, print_json
from diffoundry.runtime.cli.help import Command
from diffoundry.runtime.cli.options import json_option
from diffoundry.runtime.cli.target_options import describe_options
from diffoundry.runtime.engines.plugins import TargetPlugin, list_plugins

__all__ = ["command"]


@click.command("targets", cls=Command, examples=("diffoundry targets", "diffoundry targets openvino"))
@click.argument("name", required=False)
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
    table = Table(Column("target", no_wrap=True), "what", "devices here")
    for row in rows:
        state = escape(f"not installed: pip install '{row['install']}'")
        if row["installed"]:
            state = ", ".join(row["devices"]) or "none"
        table.add_row(row["name"], row["summary"], state)
    out.print(table)


def _show_options(name: str, *, as_json: bool) -> None:
    """List the options that a target adds to `diffoundry export`."""
    options = describe_options(name)
    if as_json:
        print_json(options)
        return
    table = Table(Column("option", no_wrap=True), "takes")
    for option, wanted in options.items():
        table.add_row(option, wanted)
    out.print(table)


def _describe(plugin: TargetPlugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "summary": plugin.summary,
        "installed": plugin.installed,
        "devices": list(plugin.load("devices")()) if plugin.installed else [],
        "install": f"diffoundry[{plugin.extra}]",
    }

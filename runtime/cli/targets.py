"""`diffoundry targets`: which targets are installed, and which devices they offer here."""

from typing import Any

import click
from rich.table import Table

from diffoundry.runtime.cli.console import out, print_json
from diffoundry.runtime.cli.options import json_option
from diffoundry.runtime.plugins import TargetPlugin, list_plugins

__all__ = ["command"]


@click.command("targets")
@json_option
def command(*, as_json: bool) -> None:
    """List targets: what each is, whether its library is installed, and the devices it offers on this machine."""
    rows = [_describe(plugin) for plugin in list_plugins()]
    if as_json:
        print_json(rows)
        return
    table = Table("target", "what", "devices here")
    for row in rows:
        state = ", ".join(row["devices"]) if row["installed"] else f"not installed: pip install '{row['install']}'"
        table.add_row(row["name"], row["summary"], state)
    out.print(table)


def _describe(plugin: TargetPlugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "summary": plugin.summary,
        "installed": plugin.installed,
        "devices": list(plugin.load("devices")()) if plugin.installed else [],
        "install": f"diffoundry[{plugin.extra}]",
    }

"""Completes the words that options take, for the shells that click supports: bash, zsh and fish."""

import click
from click.shell_completion import CompletionItem

from diffoundry.runtime.bundle.specs import PRECISIONS
from diffoundry.runtime.engines.plugins import list_plugins

__all__ = ["complete_change", "complete_precision", "complete_scheduler", "complete_target"]


def complete_target(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a target, the last one of several with commas between."""
    return _last_of_list(incomplete, [plugin.name for plugin in list_plugins()])


def complete_precision(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a precision, the last one of several with commas between."""
    return _last_of_list(incomplete, PRECISIONS)


def complete_scheduler(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a scheduler: short names, or class names after a capital letter."""
    from diffoundry.runtime.schedulers.names import scheduler_words  # most commands need no scheduler
    from diffoundry.runtime.schedulers.registry import scheduler_names

    names = [*scheduler_words(), *(name.removesuffix("Scheduler") for name in scheduler_names())]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_change(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete `scheduler=NAME` of `diffoundry set`."""
    key, equals, value = incomplete.partition("=")
    if not equals or key != "scheduler":
        return [CompletionItem(word) for word in ("scheduler=", "scheduler.") if word.startswith(incomplete)]
    return [CompletionItem(f"scheduler={item.value}") for item in complete_scheduler(context, parameter, value)]


def _last_of_list(incomplete: str, words: "tuple[str, ...] | list[str]") -> list[CompletionItem]:
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [CompletionItem(f"{before}{comma}{word}") for word in words if word.startswith(last) and word not in taken]

"""Help texts with options under headings, and examples at the end."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import click

__all__ = ["Command", "options_in"]

_OTHER = "Other options"

_F = TypeVar("_F", bound=Callable[..., Any])


class _Option(click.Option):
    """An option that the help lists under a heading."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def options_in(section: str) -> Callable[..., Callable[[_F], _F]]:
    """`click.option` for the options under one heading.

    Args:
        section: The heading, such as "Engine".
    """
    return partial(click.option, cls=_Option, section=section)


class Command(click.Command):
    """A command whose help groups its options under headings, in order of declaration, and ends with examples.

    Attributes:
        examples: Command lines for the end of the help.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section a heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                sections.setdefault(getattr(parameter, "section", _OTHER), []).append(record)
        sections[_OTHER] = sections.pop(_OTHER, [])  # --help and --json come last
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """Write the examples as typed, one a line."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

"""Commands: help with options under headings and examples at the end, other spellings, errors as JSON."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import click

from diffoundry.runtime.cli.console import print_json
from diffoundry.runtime.cli.verbosity import verbosity_options
from diffoundry.runtime.errors import DiffoundryError, InputError

__all__ = ["Command", "options_in", "typed_name"]

_OTHER = "Other options"

_F = TypeVar("_F", bound=Callable[..., Any])


_TYPED = f"{__name__}.typed"

_NEVER_EMPTY = frozenset(
    (
        "controlnet",
        "device",
        "embedding",
        "engines",
        "image_encoder",
        "ip_adapter",
        "lora",
        "model",
        "precision",
        "revision",
        "t2i_adapter",
        "target",
        "vae",
        "variant",
    )
)
"""Texts that select something. Empty prompts are prompts, and other texts have errors of their own."""


class _Option(click.Option):
    """An option that the help lists under a heading.

    Attributes:
        section: The heading.
        also: Other spellings, which the help does not list.
    """

    def __init__(self, *args: Any, section: str, also: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("show_envvar", True)
        super().__init__(*args, **kwargs)
        self.section = section
        self.also = tuple(also)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Add the other spellings, too."""
        super().add_to_parser(parser, ctx)
        if self.also:
            action = "append" if self.multiple else "store"
            parser.add_option(obj=self, opts=list(self.also), dest=self.name, action=action, nargs=self.nargs)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the option as the user typed it."""
        return super().get_error_hint(ctx) if ctx is None else repr(typed_name(ctx, self))


def options_in(section: str) -> Callable[..., Callable[[_F], _F]]:
    """`click.option` for the options under one heading.

    Args:
        section: The heading, such as "Engine".
    """
    return partial(click.option, cls=_Option, section=section)


@contextmanager
def _json_errors(*, as_json: bool) -> Iterator[None]:
    """Print an error on standard output as {"error": {"type": ..., "message": ...}}, and let it pass."""
    try:
        yield
    except (DiffoundryError, click.ClickException, KeyboardInterrupt) as error:
        if as_json:
            message = error.format_message() if isinstance(error, click.ClickException) else str(error) or "interrupted"
            print_json({"error": {"type": type(error).__name__, "message": message}})
        raise


def typed_name(ctx: click.Context, parameter: click.Parameter) -> str:
    """Return an option in the spelling that the user typed, by default the first; an argument in capitals."""
    if isinstance(parameter, click.Argument):
        return str(parameter.name).upper()
    spellings = (*parameter.opts, *parameter.secondary_opts, *getattr(parameter, "also", ()))
    words = (word.partition("=")[0] for word in ctx.meta.get(_TYPED, ()))
    return next((word for word in words if word in spellings), parameter.opts[0])


class Command(click.Command):
    """A command whose help groups its options under headings, in order of declaration, and ends with examples.

    Attributes:
        examples: Command lines for the end of the help.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.extend(verbosity_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words as typed, for errors."""
        ctx.meta[_TYPED] = tuple(args)
        with _json_errors(as_json="--json" in args):
            if not ctx.resilient_parsing:
                self._refuse_empty(ctx, args)
            return super().parse_args(ctx, args)

    def _refuse_empty(self, ctx: click.Context, args: Sequence[str]) -> None:
        """Refuse "" for a path or a name; a path of it would be the current folder.

        Raises:
            InputError: Some path or name is empty.
        """
        values = self.make_parser(ctx).parse_args(list(args))[0]
        for parameter in self.get_params(ctx):
            value = values.get(str(parameter.name))
            selects = isinstance(parameter.type, click.Path) or parameter.name in _NEVER_EMPTY
            if selects and (value == "" or (isinstance(value, list | tuple) and "" in value)):
                argument = isinstance(parameter, click.Argument)
                name = str(parameter.metavar) if argument else typed_name(ctx, parameter)
                raise InputError(
                    f"{name}: got an empty value; pass one{'' if argument else ', or leave the option out'}"
                )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; with --json an error is printed as JSON, too."""
        with _json_errors(as_json=bool(ctx.params.get("as_json"))):
            return super().invoke(ctx)

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

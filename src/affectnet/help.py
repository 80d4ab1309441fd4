"""The text of `affectnet COMMAND --help`, made from the fields of the command's config.

argparse only lays it out. tyro parses, but has one group for all flags of a flat dataclass.
"""

import argparse
import ast
import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from typing_extensions import Doc
from tyro.conf import Positional, UseAppendAction

MAX_WIDTH: Final = 100
MAX_CHOICES: Final = 45
"""Longest list of choices, in characters, that is the placeholder of a flag; longer ones are listed
in its help text."""


def summary(kind: type) -> str:
    """First line of the docstring of a config: what its command does."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def command_help(name: str, kind: type) -> str:
    """Help text of a command and its config, as wide as the terminal, up to `MAX_WIDTH`."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH) - 2
    examples = (inspect.getdoc(kind) or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(
        description=summary(kind),
        epilog=f"Examples:\n{textwrap.indent(examples, '  ')}",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=26, width=width
        ),
        add_help=False,
    )
    usage = [f"affectnet {name}"]
    groups: dict[str, Any] = {}
    for title, field, text in _documented_fields(kind):
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        group, flag = groups[title], f"--{field.name.replace('_', '-')}"
        text, metavar = " ".join([text, *_notes(field)]).replace("%", "%%"), _metavar(field)
        required = field.default is dataclasses.MISSING
        if is_positional(field):
            group.add_argument(metavar, help=text)
            usage.append(metavar if required else f"[{metavar}]")
        elif field.type is bool:
            flags = [flag, f"--no-{flag[2:]}"] if field.default else [flag]
            group.add_argument(*flags, action="store_true", help=text)
        else:
            group.add_argument(flag, metavar=metavar, help=text)
            usage += [flag, metavar] * required
    group = parser.add_argument_group("Configuration and help")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of these settings. Flags on the command line take precedence. Repeatable.",
    )
    group.add_argument("-h", "--help", action="store_true", help="Show this help.")
    parser.usage = " ".join([*usage, "[options]"])
    return parser.format_help()


def is_positional(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field is an argument without a flag."""
    return Positional in get_args(field.type)


def _documented_fields(kind: type) -> Iterator[tuple[str, "dataclasses.Field[Any]", str]]:
    """Title of the group, field, and help text, for each field in the source of a config."""
    source = inspect.getsource(kind)
    lines = source.splitlines()
    fields = {field.name: field for field in dataclasses.fields(kind)}
    title = "Options"
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = lines[node.lineno - 2].strip()
            title = comment[2:] if comment.startswith("# ") else title
            field = fields[node.target.id]
            text = " ".join(m.documentation for m in get_args(field.type) if isinstance(m, Doc))
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = str(below.value.value)
            yield title, field, text


def _metavar(field: "dataclasses.Field[Any]") -> str:
    """Placeholder of a field's value."""
    word = _placeholder(field.type)
    if len(word) > MAX_CHOICES:
        return field.name.upper()
    hint = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
    several = get_origin(hint) is tuple and UseAppendAction not in get_args(field.type)
    return f"{word} [{word} ...]" if several else word


def _placeholder(hint: Any) -> str:
    """A string in `Annotated`, the choices of a `Literal`, or the name of the type."""
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return f"{{{','.join(args)}}}"
    if get_origin(hint) is Annotated:
        return next((mark for mark in args[1:] if isinstance(mark, str)), _placeholder(args[0]))
    return _placeholder(args[0]) if args else str(hint.__name__.upper())


def _notes(field: "dataclasses.Field[Any]") -> list[str]:
    """Sentences that follow the help text: choices, whether the flag is repeatable, default."""
    notes = []
    choices = _placeholder(field.type)
    if len(choices) > MAX_CHOICES:
        notes.append(f"Choices: {choices[1:-1].replace(',', ', ')}.")
    if UseAppendAction in get_args(field.type):
        notes.append("Repeatable.")
    if field.default is dataclasses.MISSING:
        notes.append("Required.")
    elif field.default is True:
        notes.append("Default: on.")
    elif field.default is not False and field.default not in (None, ()):
        default = field.default
        notes.append(f"Default: {f'{default:g}' if isinstance(default, float) else default}.")
    return notes

"""The command line: flags and YAML become a config, the config goes to its command.

A user's mistake is one line on stderr and exit status 2; a traceback always means a bug.
"""

import contextlib
import dataclasses
import importlib
import io
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from affectnet import config
from affectnet.errors import AffectNetError, ConfigError, Stopped, suggest
from affectnet.version import __version__

COMMANDS: dict[str, type] = {
    "ingest": config.IngestConfig,
    "audit": config.AuditConfig,
    "train": config.TrainConfig,
    "recipes": config.RecipesConfig,
    "evaluate": config.EvaluateConfig,
    "benchmark": config.BenchmarkConfig,
    "report": config.ReportConfig,
    "predict": config.PredictConfig,
    "export": config.ExportConfig,
    "serve": config.ServeConfig,
    "demo": config.DemoConfig,
}
_POSITIONAL = tyro.conf.Positional[int].__metadata__[0]  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 done, 1 done and fault found (`audit --strict`), 2 a mistake to mend, 130 interrupted, 143 or
    138 stopped by SIGTERM or SIGUSR1.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if args[0] == "--version":
        print(f"affectnet {__version__}")
        return 0
    prog = "affectnet"
    try:
        if args[0] not in COMMANDS:
            raise ConfigError(
                f"there is no command {args[0]!r}{suggest(args[0], COMMANDS)} "
                f"Commands: {', '.join(COMMANDS)}"
            )
        name = args[0]
        prog = f"affectnet {name}"
        settings = parse(name, args[1:])
        if settings is not None:
            command = importlib.import_module(f"affectnet.commands.{name}")
            result = getattr(command, name)(settings)
            # A command that finds fault, `audit --strict`, says so by its status.
            return result if isinstance(result, int) else 0
    except AffectNetError as error:
        return _fail(prog, str(error), 2)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; that is no mistake.
        sys.stdout = None
        return 0
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(prog, f"{error.strerror or error}{where}", 2)
    except Stopped as stop:
        return _fail(prog, str(stop), stop.status)
    except KeyboardInterrupt:
        return _fail(prog, "interrupted; nothing that was finished is lost", 130)
    return 0


def parse(name: str, args: Sequence[str]) -> Any:
    """Turn the arguments of command `name` into its config; None after printing `--help`.

    `--config FILE` becomes flags in front of the user's own, so one parser checks both and the
    command line wins wherever it stands. Raises `ConfigError` with one line.
    """
    kind = COMMANDS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    args, files = _take_config_files(args)
    _check_flags(args, fields, name)
    if name == "train" and "--resume" in args:
        files = [*_config_of_resumed_run(args), *files]
    if name == "train":
        # First, so that whatever the files and the command line say wins over it.
        files = [*_recipe(args, files), *files]
    flags: list[str] = []
    for file in files:
        given = {*_given_fields(args)}
        flags += _flags_of_yaml(file, kind, skip=given)
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                kind,
                prog=f"affectnet {name}",
                description=f"{kind.__doc__}\n\n--config FILE: a YAML file of these settings; "
                "flags on the command line win.",
                args=[*flags, *args],
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            return None
        raise ConfigError(_one_line(captured.getvalue(), name)) from None


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {kind.__doc__}" for name, kind in COMMANDS.items()]
    return "\n".join(
        [
            "usage: affectnet COMMAND [flags]     (affectnet COMMAND --help tells its flags)",
            "",
            "Facial expression (eight classes), valence and arousal: from AffectNet to a trained",
            "model, honest scores and figures.",
            "",
            *lines,
            "",
            "  --version  print the version",
        ]
    )


def _fail(prog: str, message: str, status: int) -> int:
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _take_config_files(args: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Split `--config FILE` and `--config=FILE` off the other arguments."""
    rest: list[str] = []
    files: list[Path] = []
    queue = list(args)
    while queue:
        arg = queue.pop(0)
        if arg == "--config":
            if not queue:
                raise ConfigError("--config needs a file: --config run.yaml")
            files.append(Path(queue.pop(0)))
        elif arg.startswith("--config="):
            files.append(Path(arg.removeprefix("--config=")))
        else:
            rest.append(arg)
    return rest, files


def _given_fields(args: Sequence[str]) -> list[str]:
    """Field names of the flags among `args`; `--no-x` counts as `x`."""
    names = []
    for arg in args:
        if re.match(r"--[a-zA-Z]", arg):
            flag = arg[2:].split("=")[0].replace("-", "_")
            names.append(flag)
            names.append(flag.removeprefix("no_"))
    return names


def _check_flags(args: Sequence[str], fields: dict[str, Any], name: str) -> None:
    for arg in args:
        if not re.match(r"--[a-zA-Z]", arg):
            continue
        flag = arg[2:].split("=")[0].replace("-", "_")
        if flag in fields or flag.removeprefix("no_") in fields or flag == "help":
            continue
        allowed = ["--" + field.replace("_", "-") for field in [*fields, "config"]]
        raise ConfigError(
            f"there is no flag {arg.split('=')[0]}{suggest(arg.split('=')[0], allowed)} "
            f"`affectnet {name} --help` lists them all"
        )


def _config_of_resumed_run(args: Sequence[str]) -> list[Path]:
    """The run's own config.yaml, so that `--resume` needs no other flag repeated."""
    runs, name, backbone = "runs", "", config.TrainConfig.backbone
    for position, arg in enumerate(args):
        flag, _, value = arg.partition("=")
        value = value or (args[position + 1] if position + 1 < len(args) else "")
        if flag == "--runs":
            runs = value
        elif flag == "--name":
            name = value
        elif flag == "--backbone":
            backbone = value
    file = Path(runs, name or backbone, "config.yaml")
    return [file] if file.is_file() else []


def _recipe(args: Sequence[str], files: Sequence[Path]) -> list[Path]:
    """The file of the recipe that the command line names, or else the last file that names one."""
    from affectnet.recipes import find_recipe

    # A run's own config.yaml repeats all values: it is read without its recipe, which may be gone.
    all_fields = {field.name for field in dataclasses.fields(config.TrainConfig)}
    whole = all_fields - {"resume", "overwrite"}
    given_files = [_settings_of(file) for file in files]
    named = [file.get("recipe") for file in given_files if not whole <= file.keys()]
    for position, arg in enumerate(args):
        if arg == "--recipe" and position + 1 < len(args):
            named.append(args[position + 1])
        elif arg.startswith("--recipe="):
            named.append(arg.removeprefix("--recipe="))
    given = [str(name) for name in named if name not in (None, "None")]
    return [find_recipe(given[-1])] if given else []


def _settings_of(file: Path) -> dict[str, Any]:
    """What a YAML file sets; raises `ConfigError` where it is none."""
    import yaml

    from affectnet.recipes import recipe_text

    try:
        settings = yaml.safe_load(recipe_text(file))
    except FileNotFoundError:
        raise ConfigError(f"--config {file}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config {file}: not a YAML file: {reason}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {file}: expected lines of `setting: value`")
    return settings


def _flags_of_yaml(file: Path, kind: type, skip: set[str]) -> list[str]:
    """The settings of a YAML file as flags, less those in `skip`."""
    settings = _settings_of(file)
    hints = typing.get_type_hints(kind, include_extras=True)
    flags: list[str] = []
    for key, value in settings.items():
        field = str(key).replace("-", "_")
        if field not in hints:
            raise ConfigError(
                f"--config {file}: there is no setting {key!r}{suggest(field, hints)}"
            )
        if _POSITIONAL in getattr(hints[field], "__metadata__", ()):
            raise ConfigError(f"--config {file}: {key!r} belongs on the command line")
        if field not in skip:
            flags += _as_flags(field, value, file)
    return flags


def _as_flags(field: str, value: object, file: Path) -> list[str]:
    flag = "--" + field.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list | tuple):
        return [part for item in value for part in (flag, str(item))]
    if isinstance(value, dict):
        raise ConfigError(f"--config {file}: {field!r} must be one value or a list, not a mapping")
    return [flag, str(value)]


def _one_line(box: str, name: str) -> str:
    """The message inside tyro's box, without the box and the help text under it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │|") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("╭", "╰"))]
    message: list[str] = []
    for line in lines:
        if line.startswith("─"):
            break
        message.append(line)
    said = " ".join(message).rstrip(".")
    if "'described' for argument '--augment'" in said:
        return "--augment described is now called notebook; give --augment notebook"
    missing = re.search(r"(?:Missing from|following arguments are required).*?:\s*(.*)", said)
    if missing:
        flags = re.findall(r"--[\w-]+", said) or [missing.group(1)]
        said = f"missing: {', '.join(flags)}"
    return f"{said}; `affectnet {name} --help` tells what is allowed"


def run() -> None:
    """Entry point of the `affectnet` script."""
    raise SystemExit(main())

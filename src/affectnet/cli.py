"""The command line: flags and YAML become a config, which is passed to its command.

A user's mistake is one line on stderr and exit status 2; a traceback always means a bug.
"""

import contextlib
import dataclasses
import importlib
import io
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import tyro

from affectnet import config
from affectnet.errors import (
    NOTHING_LOST,
    AffectNetError,
    ConfigError,
    Stopped,
    need_train,
    printable,
    raise_on_signals,
    suggest,
)
from affectnet.help import command_help, is_positional, summary
from affectnet.version import __version__

SECTIONS: dict[str, dict[str, type]] = {
    "Data": {"ingest": config.IngestConfig, "audit": config.AuditConfig},
    "Training": {
        "train": config.TrainConfig,
        "recipes": config.RecipesConfig,
        "benchmark": config.BenchmarkConfig,
    },
    "Evaluation": {"evaluate": config.EvaluateConfig, "report": config.ReportConfig},
    "Prediction": {
        "predict": config.PredictConfig,
        "serve": config.ServeConfig,
        "export": config.ExportConfig,
    },
    "Example": {"demo": config.DemoConfig},
}
NEED_TRAIN = ("train", "benchmark", "export", "demo")
COMMANDS = {name: kind for commands in SECTIONS.values() for name, kind in commands.items()}


_LONGEST = 4000
"""Characters of an error, at most."""
_CONTROL = re.compile(
    r"\x1b\[(?:[0-9;]*[mAK]|\?25[hl])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


class Screen(io.TextIOBase):
    """An output in which control characters are escaped.

    Colours, and the movements of progress bars, stay: a file name cannot do more than these.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; returns its length."""
        self._stream.write(_CONTROL.sub(_escaped, text))
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        """The file descriptor."""
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return str(self._stream.encoding)


def _escaped(found: re.Match[str]) -> str:
    return found[0] if len(found[0]) > 1 else printable(found[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 done, 1 done with problems (`audit --strict`, `benchmark`), 2 a user's mistake,
    130 interrupted, 143 or 138 stopped by SIGTERM or SIGUSR1.
    """
    name, *args = (sys.argv[1:] if argv is None else argv) or ["--help"]
    prog = f"affectnet {name}" if name in COMMANDS else "affectnet"
    try:
        return _run_command(name, args)
    except AffectNetError as error:
        return _fail(prog, str(error), 2)
    except BrokenPipeError:
        # The reader of the output (`| head`) has closed it, which is not a mistake.
        sys.stdout = None
        return 0
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(prog, f"{error.strerror or error}{where}", 2)
    except Stopped as stop:
        return _fail(prog, str(stop), stop.status)
    except KeyboardInterrupt:
        more = "; --resume continues a run" if name == "train" else ""
        return _fail(prog, f"interrupted; {NOTHING_LOST}{more}", 130)


def parse(name: str, args: Sequence[str]) -> Any:
    """Turn the arguments of command `name` into its config.

    Each `--config FILE` becomes flags in front of the user's own, so that one parser checks both
    and the command line takes precedence. Raises `ConfigError` with one line.
    """
    kind = COMMANDS[name]
    paths, args = _take_flag("--config", args)
    if "" in paths:
        raise ConfigError("--config needs a file: --config run.yaml")
    files = [Path(path) for path in paths]
    given = _given_fields(name, args)
    refit: dict[str, list[str]] = {}
    if name == "train":
        if "refit" in given:
            args, refit = _refit(args, given)
            given = _given_fields(name, args)
        if "--resume" in args:
            may_start = bool(refit or files) or "data" in given
            files = [*_config_of_resumed_run(args, may_start), *files]
        # The recipe is first, because files and the command line take precedence over it.
        files = [*_recipe(args, files), *files]
    settings = refit
    for file in files:  # a list of a later file replaces that of an earlier one
        settings |= _flags_of_yaml(file, kind, skip=given)
    flags = [flag for some in settings.values() for flag in some]
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(kind, args=[*flags, *args], add_help=False)
    except SystemExit:
        raise ConfigError(_one_line(captured.getvalue(), name)) from None


def _run_command(name: str, args: Sequence[str]) -> int:
    if name in ("-h", "--help"):
        print(_overview(), flush=True)
        return 0
    if name == "--version":
        print(f"affectnet {__version__}", flush=True)
        return 0
    if name not in COMMANDS:
        raise ConfigError(
            f"there is no command {name!r}{suggest(name, COMMANDS)}; there are "
            f"{', '.join(COMMANDS)}"
        )
    if {"-h", "--help"} & set(args):
        print(command_help(name, COMMANDS[name]), end="", flush=True)
        return 0
    settings = parse(name, args)
    if name in NEED_TRAIN:
        need_train(f"`affectnet {name}`")
    command = importlib.import_module(f"affectnet.commands.{name}")
    with raise_on_signals():
        result = getattr(command, name)(settings)
    return result if isinstance(result, int) else 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: affectnet COMMAND [options]",
        "",
        "Facial expression (eight classes), valence and arousal from face images, by",
        "transfer learning on AffectNet.",
    ]
    for title, commands in SECTIONS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}  {summary(kind)}" for name, kind in commands.items()]
    return "\n".join(
        [
            *lines,
            "",
            "affectnet COMMAND --help   list the options of a command",
            "affectnet --version        print the version",
        ]
    )


def _fail(prog: str, message: str, status: int) -> int:
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST:  # it repeats what a file contains; the end is what to do
        line = f"{line[: _LONGEST * 3 // 4]} … {line[-_LONGEST // 4 :]}"
    print(f"{prog}: error: {line}", file=sys.stderr)
    return status


def _take_flag(flag: str, args: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split `args` into the values of `flag` (`--flag VALUE` or `--flag=VALUE`) and the rest."""
    values, rest = [], []
    remaining = iter(args)
    for arg in remaining:
        name, equals, value = arg.partition("=")
        if name == flag:
            values.append(value if equals else next(remaining, ""))
        else:
            rest.append(arg)
    return values, rest


def _given_fields(name: str, args: Sequence[str]) -> set[str]:
    """Names of the fields whose flags are among `args`; `--no-x` counts as `x`."""
    fields = {field.name for field in dataclasses.fields(COMMANDS[name])}
    given = set()
    for arg in args:
        if not re.match(r"--[a-zA-Z]", arg):
            continue
        flag = arg.partition("=")[0]
        field = flag[2:].replace("-", "_")
        if field not in fields:
            field = field.removeprefix("no_")
        if field not in fields:
            allowed = ["--" + field.replace("_", "-") for field in [*fields, "config"]]
            raise ConfigError(
                f"there is no flag {flag}{suggest(flag, allowed)}; "
                f"`affectnet {name} --help` lists all flags"
            )
        given.add(field)
    return given


def _refit(args: list[str], given: Collection[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The arguments with a name for the new run, and the flags of the run that is refitted.

    Raises `ConfigError` if there is no such run, or for epochs, which that run has chosen.
    """
    run = Path(_take_flag("--refit", args)[0][-1])
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"--refit {run}: there is no such run; give the folder of one")
    if {"epochs", "schedule_epochs"} & set(given):
        raise ConfigError(
            f"--refit trains for the epochs that {run} chose; leave out --epochs and "
            "--schedule-epochs"
        )
    own = {"name", "runs", "epochs", "monitor", "early_stop"}
    for flag, value in (("name", f"{run.resolve().name}-refit"), ("runs", str(run.parent))):
        args = args if flag in given else [*args, f"--{flag}", value]
    return args, _flags_of_yaml(run / "config.yaml", config.TrainConfig, skip={*given, *own})


def _config_of_resumed_run(args: Sequence[str], may_start: bool) -> list[Path]:
    """The config.yaml of the run to resume, so that its flags need not be repeated.

    Raises `ConfigError` if there is no such run, unless one `may_start` from the other settings.
    """
    runs, run, backbone = (_take_flag(flag, args)[0] for flag in ("--runs", "--name", "--backbone"))
    folder = Path((runs or ["runs"])[-1], (run or backbone or [config.TrainConfig.backbone])[-1])
    file = folder / "config.yaml"
    if file.is_file() or may_start:
        return [file] if file.is_file() else []
    known = [path.parent.name for path in sorted(folder.parent.glob("*/config.yaml"))]
    raise ConfigError(
        f"there is no run {folder} to resume{suggest(folder.name, known)}; {folder.parent} has "
        f"{', '.join(known[:20]) or 'no runs'}; give --name and --runs, or --data to start a run"
    )


def _recipe(args: Sequence[str], files: Sequence[Path]) -> list[Path]:
    """The file of the recipe named on the command line, or else in the last file that names one."""
    from affectnet.recipes import find_recipe

    # A run's config.yaml sets every field: it is read without its recipe, which may not exist now.
    every = {field.name for field in dataclasses.fields(config.TrainConfig)}
    every -= {"resume", "overwrite"}
    named = [
        settings.get("recipe")
        for settings in map(_read_yaml, files)
        if not every <= settings.keys()
    ]
    named += _take_flag("--recipe", args)[0]
    given = [str(name) for name in named if name not in (None, "None", "")]
    return [find_recipe(given[-1])] if given else []


def _read_yaml(file: Path) -> dict[str, Any]:
    """The settings in a YAML file."""
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


def _flags_of_yaml(file: Path, kind: type, skip: Collection[str]) -> dict[str, list[str]]:
    """The flags for each setting in a YAML file, without the fields in `skip`."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    flags: dict[str, list[str]] = {}
    for key, value in _read_yaml(file).items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise ConfigError(
                f"--config {file}: there is no setting {key!r}{suggest(name, fields)}"
            )
        if is_positional(fields[name]):
            raise ConfigError(f"--config {file}: {key!r} belongs on the command line")
        if name in skip:
            continue
        if isinstance(value, dict):
            raise ConfigError(
                f"--config {file}: {key!r} must be one value or a list, not a mapping"
            )
        value = config.RENAMED.get(f"{name}: {value}", value)
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags[name] = [f"--{flag}" if value else f"--no-{flag}"]
        else:
            items = value if isinstance(value, list) else [value]
            flags[name] = [word for item in items for word in (f"--{flag}", str(item))]
    return flags


def _one_line(box: str, name: str) -> str:
    """The message in tyro's box, without the box and the help text below it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │|") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("╭", "╰"))]
    message = " ".join(takewhile(lambda line: not line.startswith("─"), lines)).rstrip(".")
    if "'described' for argument '--augment'" in message:
        return "--augment described is now called notebook; give --augment notebook"
    optional = re.search(r"(--\S+): no type matching {None}\|(\w+).*? from \['(.*?)'\]", message)
    if optional:
        flag, kind, value = optional.groups()
        message = f"{flag} is {value!r}, allowed are {kind} and None"
    missing = re.search(r"(?:Missing from|following arguments are required).*?:\s*(.*)", message)
    if missing:
        flags = re.findall(r"--[\w-]+", message) or [missing.group(1)]
        message = f"missing: {', '.join(flags)}"
    return f"{message}; `affectnet {name} --help` lists what is allowed"

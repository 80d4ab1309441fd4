"""Settings of `affectnet train` by name: YAML files that give a reason for each setting.

A recipe may name another, or a file in `base/`, as its `base`: the settings of that one apply where
it sets none.
"""

import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Final

from affectnet.errors import ConfigError, suggest

_FOLDER: Final = Path(__file__).parent


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name, in alphabetical order."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.yaml"))}


def title(recipe: Path) -> str:
    """The first line of a recipe, a comment that describes it."""
    first = recipe.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def recipe_text(file: Path) -> str:
    """The whole YAML of a recipe: its own lines, then those of its base that it does not override.

    Raises:
        ConfigError: there is no base of that name.
    """
    text = file.read_text(encoding="utf-8")
    named = re.search(r"^base:[ \t]*(\S+)[ \t]*\n?", text, re.MULTILINE)
    if named is None:
        return text
    own = text[: named.start()] + text[named.end() :]
    bases = {path.stem: path for path in sorted((_FOLDER / "base").glob("*.yaml"))}
    bases |= shipped_recipes()
    if named[1] not in bases:
        raise ConfigError(f"{file}: there is no base {named[1]}; choose {', '.join(bases)}")
    overridden = set(re.findall(r"^(\w+):", own, re.MULTILINE))
    _, inherited = recipe_text(bases[named[1]]).split("\n", 1)
    left = re.sub(_REASON_AND_SETTINGS, partial(_left, overridden), inherited)
    return own + re.sub(r"\n{3,}", "\n\n", left)


_REASON_AND_SETTINGS: Final = re.compile(r"((?:^#.*\n)*)((?:^\w+:.*\n?)+)", re.MULTILINE)
"""Comment lines, and the settings below for which they give the reason."""


def _left(overridden: Collection[str], found: re.Match[str]) -> str:
    """The settings that are not overridden, and their reason if there are any."""
    reason, settings = found.groups()
    left = [s for s in settings.splitlines(keepends=True) if s.partition(":")[0] not in overridden]
    return "".join([reason, *left]) if left else ""


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe, or the YAML file that `name` is the path of.

    Raises:
        ConfigError: there is neither; the message names the nearest one.
    """
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ConfigError(f"--recipe {name}: there is no such file")
    renamed = name.replace("described", "notebook", 1)
    if renamed != name and renamed in (*shipped, "notebook"):
        raise ConfigError(f"--recipe {name} is now called {renamed}; give --recipe {renamed}")
    raise ConfigError(
        f"--recipe {name}: there is no recipe of this name{suggest(name, shipped)}; "
        f"`affectnet recipes` lists them: {', '.join(shipped)}; or give the path of a .yaml file"
    )

"""Settings of `affectnet train` by name: YAML files that say, setting by setting, why."""

from pathlib import Path
from typing import Final

from affectnet.errors import ConfigError, suggest

_FOLDER: Final = Path(__file__).parent


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name, in alphabetical order."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.yaml"))}


def described(recipe: Path) -> str:
    """What a recipe says of itself in its first line."""
    first = recipe.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe, or the YAML file that `name` is the path of.

    Raises:
        ConfigError: there is neither; the nearest names are told.
    """
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ConfigError(f"--recipe {name}: there is no such file")
    raise ConfigError(
        f"--recipe {name}: there is no recipe of this name{suggest(name, shipped)} "
        f"`affectnet recipes` lists them: {', '.join(shipped)}; or give the path of a .yaml file"
    )

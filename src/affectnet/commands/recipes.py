"""`affectnet recipes`: what `affectnet train --recipe` takes."""

from affectnet.config import RecipesConfig
from affectnet.recipes import described, find_recipe, shipped_recipes


def recipes(config: RecipesConfig) -> None:
    """Print one line a recipe, or the file of the one named.

    Raises:
        ConfigError: there is no recipe of that name.
    """
    if config.name is not None:
        print(find_recipe(config.name).read_text(encoding="utf-8").rstrip("\n"))
        return
    shipped = shipped_recipes()
    width = max(map(len, shipped))
    for name, file in shipped.items():
        print(f"{name:<{width}}  {described(file)}")

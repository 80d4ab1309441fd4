"""`affectnet recipes`: the recipes of `affectnet train --recipe`."""

from affectnet.config import RecipesConfig
from affectnet.recipes import find_recipe, recipe_text, shipped_recipes, title


def recipes(config: RecipesConfig) -> None:
    """Print one line per recipe, or the whole YAML of the named one.

    Raises:
        ConfigError: there is no recipe of that name.
    """
    if config.name is not None:
        print(recipe_text(find_recipe(config.name)).rstrip("\n"))
        return
    shipped = shipped_recipes()
    width = max(map(len, shipped))
    for name, file in shipped.items():
        print(f"{name:<{width}}  {title(file)}")

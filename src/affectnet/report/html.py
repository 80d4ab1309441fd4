"""What the package's HTML pages are made with: its templates, styles and scripts."""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup


def html_template(name: str) -> Template:
    """A template of the package; what goes into it is escaped, and a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("affectnet.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def asset(name: str) -> Markup:
    """A file of the package that goes into a page as it is."""
    return Markup((resources.files("affectnet.report") / "templates" / name).read_text("utf-8"))

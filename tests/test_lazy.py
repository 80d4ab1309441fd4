"""Packages with lazy names: every public name loads, and only what it needs."""

import subprocess
import sys
from importlib import import_module

import pytest

import affectnet

PACKAGES = ("affectnet", "affectnet.evaluation", "affectnet.figures", "affectnet.report")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_loads_and_has_a_docstring(name: str) -> None:
    package = import_module(name)
    assert dir(package) == sorted(package.__all__)
    for public in package.__all__:
        assert getattr(package, public).__doc__, public


@pytest.mark.parametrize("name", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        import_module(name).nothing  # noqa: B018


def test_packages_are_attributes_of_the_package() -> None:
    assert affectnet.figures is import_module("affectnet.figures")
    assert affectnet.report is import_module("affectnet.report")


def test_names_load_only_what_they_need() -> None:
    code = (
        "import sys, affectnet; from affectnet import figures, report, evaluation;"
        "assert not {'matplotlib', 'torch', 'pyarrow'} & set(sys.modules);"
        "figures.confusion_matrix; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

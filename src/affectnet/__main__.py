"""`python -m affectnet` is the `affectnet` command."""

from affectnet.cli import run

run()

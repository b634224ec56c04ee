"""The command line."""

from hfdbench.cli.app import main as main

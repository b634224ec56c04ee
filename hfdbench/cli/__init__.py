"""The command line."""

import sys

from hfdbench.cli import interrupts


def main() -> None:
    """Run the command line. Ctrl-C is handled from the first import on."""
    interrupts.install()
    try:
        try:
            from hfdbench.cli.app import main as run

            run()
        finally:
            interrupts.settle()
    except KeyboardInterrupt:  # pressed between the two
        interrupts.settle()
        sys.exit(130)

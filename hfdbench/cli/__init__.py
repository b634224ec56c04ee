"""The command line."""

import sys

from hfdbench.cli import interrupts


def main() -> None:
    """Run the command line. Ctrl-C is handled from the first import on."""
    interrupts.install()
    try:
        from hfdbench.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        interrupts.settle()

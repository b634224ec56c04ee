"""The command line: the commands by what they are for.

Modules of commands import nothing heavy; each command imports what it needs. stdout is the result, stderr the progress.
Exit codes: 0 done; 1 something failed and the rest was kept; 2 the request cannot be carried out.
"""

import sys
import warnings
from typing import Annotated, Any

import typer
import typer.core

from hfdbench import __version__
from hfdbench.cli import check, look, measure, provide
from hfdbench.errors import Unavailable, UsageError, of_system
from hfdbench.report.text import plain

GROUPS = {
    "Measure": {
        "run": measure.run,
        "merge": measure.merge,
        "score": measure.score,
        "match": measure.match,
        "measure": measure.measure,
        "score-pixels": measure.score_pixels,
    },
    "Show": {
        "show": look.show,
        "report": look.report,
        "compare": look.compare,
        "claims": look.claims,
        "list": look.list_,
    },
    "Check": {"gate": check.gate, "conform": check.conform, "doctor": check.doctor},
    "Data and models": {
        "fetch": provide.fetch,
        "train": provide.train,
        "import": provide.import_,
        "export": provide.export_,
    },
}


class Grouped(typer.core.TyperGroup):
    """A group of commands whose help lists them by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(width)) for name in names])


app = typer.Typer(
    help="Rate, distortion and realism of image codecs.\n\n"
    "A codec compresses, a dataset is what it is measured on, a report shows the result.",
    cls=Grouped,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _commands in GROUPS.values():
    for _name, _command in _commands.items():
        app.command(_name)(_command)


def main() -> None:
    """Run the command line. Errors that a user can act on become one line on stderr and exit code 2."""
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # CompressAI's business, not the user's
    try:
        app()
    except (UsageError, Unavailable) as error:
        print(f"hfdbench: {plain(error)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our stdout has gone, as head does
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.filename is None:  # of no file: a fault of ours, to be seen whole
            raise
        print(f"hfdbench: {plain(of_system(error))}", file=sys.stderr)
        sys.exit(2)


def version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...

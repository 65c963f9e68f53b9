"""The command line. Imports neither ray nor torch until a command needs them: ``vlmprof --help`` answers at once.

Exit codes: 0 all is well; 1 a bug; 2 the user can fix it; those of a run are listed in ``cli.run``.
"""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from typing import Annotated, final

import typer

from vlmprof import __version__
from vlmprof.cli import batch_sizes, best, compare, data, listing, results, run, submit, tables, watch
from vlmprof.cli.output import err, out
from vlmprof.errors import UserError
from vlmprof.escaping import visible

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data.app, name="data")
app.add_typer(batch_sizes.app, name="batch")
app.add_typer(watch.dashboard, name="dashboard")
for group in (run, submit, watch, results, best, compare, tables, listing):
    app.add_typer(group.app)  # without a name: its commands are commands of ours


OF_A_DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""What a disk says, whatever is written to it: also a log that the output goes to."""


@final
class _Visible(logging.Formatter):
    """What libraries log, without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def main() -> None:
    """Entry point: an error that the user can fix is one line, any other keeps its trace."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Visible())
    try:
        _run()
    except BrokenPipeError:
        raise
    except Exception:
        sys.stderr.write(visible(traceback.format_exc()))
        sys.exit(1)


def _run() -> None:
    try:
        app(prog_name="vlmprof")
    except UserError as error:
        err.print(f"vlmprof: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or (error.filename is None and error.errno not in OF_A_DISK):
            raise
        # A file or folder of the user's machine: a cache in /proc, a disk that is full, a file without permission.
        where = error.filename or "the output, or a file"
        err.print(f"vlmprof: {where}: {error.strerror}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"vlmprof {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def vlmprof(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Sweep the knobs of a vision-language model: accuracy, latency that can be trusted, Pareto fronts."""

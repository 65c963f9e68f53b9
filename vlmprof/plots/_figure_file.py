"""A figure that is drawn on request: its file, and the errors of writing one."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlmprof.errors import UserError
from vlmprof.plots import _style

ENDINGS = (".png", ".svg", ".pdf")


def require_ending(path: str | Path | None) -> None:
    """Refuse a file of another kind, before anything is drawn.

    Raises:
        UserError: another ending than ``.png``, ``.svg`` or ``.pdf``.
    """
    if path is not None and Path(path).suffix.lower() not in ENDINGS:
        raise UserError(f"{path}: expected a file that ends in {', '.join(ENDINGS)}")


def new_figure(height: float, *, constrained: bool = True) -> Figure:
    """An empty figure of the usual width, ``height`` in inches."""
    figure = Figure(figsize=(_style.WIDTH_INCHES, height), layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: str | Path | None) -> Figure:
    """Write the figure, unless there is no path, and return it. Equal figures are equal files.

    Raises:
        UserError: the file cannot be written.
    """
    if path is None:
        return figure
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    except OSError as error:
        raise UserError(f"the figure cannot be written to {file}: {error.strerror or error}") from None
    return figure

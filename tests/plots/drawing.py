"""Drawing a plot in a test, as the renderer does but kept in memory."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.builders import read_rows
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.plots import _style


def one_group(folder, rows):
    """The trials of the only group these rows make."""
    ((_, part),) = groups(comparable(read_rows(folder, rows)))
    return part


def drawn(plot, data):
    """The figure of a plot."""
    with _style.applied():
        figure = Figure(figsize=(_style.WIDTH_INCHES, 4.4))
        FigureCanvasAgg(figure)
        plot.draw(data, figure)
        figure.canvas.draw()
    return figure

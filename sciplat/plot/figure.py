"""The one door to matplotlib: empty figures, colours and axes shared by all pictures.

Figures are made without pyplot: no global state, no window, safe in threads.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sciplat.errors import MissingDependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
FAINT = "#767676"
GRID = "#DDDDDD"

# Okabe and Ito's palette, told apart with every colour vision; the markers repeat the distinction in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of `width` x `height` inches that arranges its own margins.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingDependency(
            "pictures need matplotlib", found="no such package", hint="pip install 'sciplat[plot]'"
        ) from error
    margins = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    return Figure(figsize=(width, height), dpi=150, facecolor="white", layout=margins)


def band_styles(bands: npt.ArrayLike) -> dict[str, dict[str, Any]]:
    """Return colour and marker of each distinct band, in alphabetical order, which is the legend's order."""
    names = sorted({str(band) for band in np.asarray(bands).ravel()})
    return {
        name: {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        for i, name in enumerate(names)
    }


def tidy(axes: "Axes", **labels: Any) -> None:
    """Give axes a faint grid behind the data, no box, and the labels (`xlabel`, `ylabel`, `title`...)."""
    axes.set(**labels)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, color=FAINT)

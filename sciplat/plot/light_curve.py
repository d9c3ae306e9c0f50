"""Light curves: flux against time, one panel per source, its bands told apart by colour and marker."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sciplat.plot.figure import INK, band_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]

COLUMNS = 3


@dataclass(frozen=True)
class LightCurve:
    """The measurements of one source.

    Attributes
    ----------
    name : str
        Title of the panel.
    mjd, flux, flux_err : (n,) array
        Times (days), fluxes and errors, in one unit for all curves of a picture.
    band : (n,) array of str
        Band of each measurement.
    model : mapping of band to (mjd, flux)
        The expected curve of each band, drawn as a line.
    """

    name: str
    mjd: FloatArray
    flux: FloatArray
    flux_err: FloatArray
    band: npt.NDArray[np.str_]
    model: Mapping[str, tuple[FloatArray, FloatArray]] = field(default_factory=dict)


def light_curves(curves: Sequence[LightCurve], *, unit: str = "nJy", title: str = "") -> "Figure":
    """Draw light curves, one panel each.

    Parameters
    ----------
    curves : sequence of LightCurve
        What to draw; an empty sequence gives a picture that says so.
    unit : str
        Unit of the fluxes, for the labels.
    title : str
        Title of the picture.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    rows = max(1, math.ceil(len(curves) / COLUMNS))
    figure = new_figure(11.0, 1.2 + 2.6 * rows)
    figure.suptitle(title, fontsize=12, color=INK)
    if not curves:
        figure.text(0.5, 0.5, "no light curves", ha="center", color=INK)
        return figure
    columns = min(COLUMNS, len(curves))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    styles = band_styles(np.concatenate([curve.band for curve in curves]))
    for index, (axes, curve) in enumerate(zip(panels, curves, strict=False)):
        _draw_curve(axes, curve, styles)
        tidy(axes, ylabel=f"flux ({unit})" if index % columns == 0 else "")
        axes.set_title(curve.name, fontsize=10, color=INK)
        axes.ticklabel_format(useOffset=False)
        if index + columns >= len(curves):
            axes.set_xlabel("MJD (TAI, days)")
            axes.tick_params(labelbottom=True)
    for axes in panels[len(curves) :]:
        axes.remove()
    _draw_legend(figure, styles, has_model=any(curve.model for curve in curves))
    return figure


def _draw_curve(axes: "Axes", curve: LightCurve, styles: Mapping[str, Mapping[str, Any]]) -> None:
    for name, style in styles.items():
        if name in curve.model:
            time, flux = curve.model[name]
            axes.plot(time, flux, color=style["color"], linewidth=1.1, alpha=0.55)
        own = curve.band == name
        axes.errorbar(
            curve.mjd[own],
            curve.flux[own],
            yerr=curve.flux_err[own],
            linestyle="none",
            markersize=5,
            capsize=2.5,
            elinewidth=1.2,
            markeredgecolor="white",
            markeredgewidth=0.6,
            **style,
        )


def _draw_legend(figure: "Figure", styles: Mapping[str, Mapping[str, Any]], *, has_model: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", markersize=6, label=f"{name} band, measured", **style)
        for name, style in styles.items()
    ]
    if has_model:
        handles.append(Line2D([], [], color=INK, linewidth=1.1, alpha=0.55, label="true curve"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)

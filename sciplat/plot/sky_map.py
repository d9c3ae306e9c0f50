"""Positions on the whole sky, in Mollweide's projection, right ascension increasing to the left."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sciplat.plot.figure import FAINT, GRID, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sky_map(
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    *,
    labels: Sequence[tuple[float, float, str]] = (),
    title: str = "",
) -> "Figure":
    """Draw positions on the whole sky.

    Parameters
    ----------
    ra, dec : (n,) array
        Positions in degrees; right ascension 0 is in the middle of the map.
    labels : sequence of (ra, dec, text)
        Texts written beside positions.
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
    lon, lat = _to_map(ra, dec)
    figure = new_figure(9.0, 5.2)
    axes = figure.add_subplot(projection="mollweide")
    _draw_frame(axes)
    # Few positions are drawn large enough to be seen on the whole sky, many small enough to show density.
    area = float(np.clip(4.0e5 / max(1, lon.size), 1.0, 14.0))
    axes.scatter(lon, lat, s=area, color="#0072B2", linewidths=0, clip_on=False, zorder=3)
    for label_ra, label_dec, text in labels:
        _write(axes, label_ra, label_dec, text)
    axes.set_title(title, fontsize=12, color=INK, pad=14)
    return figure


def _to_map(ra: npt.ArrayLike, dec: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return Mollweide's longitude (mirrored, -pi to pi) and latitude in radians."""
    degrees = np.asarray(ra, dtype=np.float64)
    east = np.mod(degrees + 180.0, 360.0) - 180.0
    return np.radians(-east), np.radians(np.asarray(dec, dtype=np.float64))


def _draw_frame(axes: "Axes") -> None:
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_longitude_grid_ends(90)  # type: ignore[attr-defined]
    axes.set_axisbelow(True)
    longitudes = np.arange(-150, 151, 30)
    axes.set_xticks(np.radians(longitudes), [f"{-longitude % 360}°" for longitude in longitudes])
    axes.set_yticks(np.radians(np.arange(-60, 61, 30)))
    axes.tick_params(labelsize=8, colors=FAINT)
    axes.spines["geo"].set_color(FAINT)
    axes.set_xlabel("right ascension, declination (ICRS)", fontsize=9, color=INK, labelpad=14)


def _write(axes: "Axes", ra: float, dec: float, text: str) -> None:
    """Write `text` beside a position, inwards at the rim and away from the equator's labels."""
    lon, lat = (float(value) for value in _to_map(ra, dec))
    left = lon > np.radians(90.0)
    above = dec < -80.0 or 0.0 <= dec <= 80.0
    axes.annotate(
        text,
        (lon, lat),
        xytext=(-7 if left else 7, 4 if above else -4),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom" if above else "top",
        fontsize=8,
        color=INK,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        zorder=4,
    )

"""The whole sky in Mollweide's projection, longitude increasing to the left: positions, and values by HEALPix pixel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sciplat.errors import ArgumentError
from sciplat.plot.figure import FAINT, GRID, INK, new_figure
from sciplat.sky.cell import MAX_ORDER, healpix_29

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_WIDTH = 1500  # elements of the picture's raster; its height is half of it
_EMPTY = "#F0F0F0"
_WIDE = 20.0  # ratio of values beyond which a linear scale would show the largest only
_COORDINATES = {"galactic": "galactic longitude, latitude", "fk5": "right ascension, declination (FK5)"}
_ICRS = "right ascension, declination (ICRS)"


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
    _draw_frame(axes, _ICRS)
    # Few positions are drawn large enough to be seen on the whole sky, many small enough to show density.
    area = float(np.clip(4.0e5 / max(1, lon.size), 1.0, 14.0))
    axes.scatter(lon, lat, s=area, color="#0072B2", linewidths=0, clip_on=False, zorder=3)
    for label_ra, label_dec, text in labels:
        _write(axes, label_ra, label_dec, text)
    axes.set_title(title, fontsize=12, color=INK, pad=14)
    return figure


def healpix_map(
    values: npt.ArrayLike, *, label: str = "", title: str = "", frame: str = "icrs", axes: "Axes | None" = None
) -> "Figure":
    """Draw a value for each HEALPix pixel of the whole sky.

    Parameters
    ----------
    values : (12 * 4**order,) array
        In the nested scheme; pixels that are not a finite number stay empty. The colours are logarithmic where all
        values are positive and differ widely.
    label : str
        What the values are, with their unit; written at the colour bar.
    title : str
    frame : {"icrs", "fk5", "galactic"}
        Of the pixels.
    axes : matplotlib.axes.Axes, optional
        With the projection "mollweide", to draw into; a figure of its own by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ArgumentError
        If there is no such number of pixels, or the axes have another projection.
    MissingDependency
        If matplotlib is not installed.
    """
    pixels = np.asarray(values, dtype=np.float64)
    order = _order(pixels)
    if axes is None:
        axes = new_figure(9.0, 5.6).add_subplot(projection="mollweide")
    elif getattr(axes, "name", None) != "mollweide":
        raise ArgumentError(
            "the whole sky needs axes of Mollweide's projection",
            found=str(getattr(axes, "name", repr(axes))),
            hint='figure.add_subplot(projection="mollweide")',
        )
    _draw_raster(axes, pixels, order, label)
    _draw_frame(axes, _COORDINATES.get(frame, _ICRS))
    _lighten_frame(axes)
    axes.set_title(title, fontsize=12, color=INK, pad=14)
    return axes.get_figure(root=True)  # type: ignore[return-value]  # axes without a figure cannot be made


def _order(pixels: npt.NDArray[np.float64]) -> int:
    order = int(np.log2(max(pixels.size, 12) / 12) / 2)
    if pixels.ndim != 1 or pixels.size != 12 * 4**order:
        raise ArgumentError("these are not the pixels of a HEALPix map", found=f"an array of shape {pixels.shape}")
    return order


def _draw_raster(axes: "Axes", pixels: npt.NDArray[np.float64], order: int, label: str) -> None:
    """Colour the ellipse. Cells as polygons would be slow, and show seams."""
    from matplotlib.image import AxesImage

    lon, lat, inside = _raster_positions()
    raster = np.full(inside.shape, np.nan)
    raster[inside] = pixels[healpix_29(-np.degrees(lon), np.degrees(lat)) >> 2 * (MAX_ORDER - order)]
    norm = _scale(pixels[np.isfinite(pixels)])
    image = AxesImage(axes, cmap="viridis", norm=norm, extent=(0, 1, 0, 1), origin="lower", interpolation="nearest")
    image.set_data(np.ma.masked_invalid(raster))
    # the projection fills the axes' box, whatever limits and size they have
    image.set_transform(axes.transAxes)
    image.set_clip_path(axes.patch)
    image.set_zorder(0.5)
    axes.add_image(image)
    axes.set_facecolor(_EMPTY)
    _draw_bar(axes, image, label)


def _draw_bar(axes: "Axes", image: "AxesImage", label: str) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure = axes.get_figure(root=True)
    # a layout engine knows of the label between the two; without one there must be room
    pad = 0.04 if figure is not None and figure.get_layout_engine() else 0.2
    bar = axes.figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.6, aspect=40, pad=pad)
    if isinstance(image.norm, LogNorm):
        bar.minorticks_off()
        bar.locator, bar.formatter = LogLocator(subs=(1.0, 2.0, 5.0)), StrMethodFormatter("{x:,g}")
        bar.update_ticks()
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=FAINT)
    bar.outline.set_edgecolor(FAINT)


def _raster_positions() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return Mollweide's longitude and latitude, radians, of the raster's elements inside the ellipse, and which are.

    The inverse projection as in J. P. Snyder, Map Projections: A Working Manual (1987), equations 31-6 to 31-8.
    """
    x = (np.arange(_WIDTH) + 0.5) / _WIDTH * 2 - 1
    y = ((np.arange(_WIDTH // 2) + 0.5) / (_WIDTH // 2) * 2 - 1)[:, np.newaxis]
    inside = x**2 + y**2 <= 1
    theta = np.broadcast_to(np.arcsin(y), inside.shape)[inside]
    lon = np.pi * np.broadcast_to(x, inside.shape)[inside] / np.cos(theta)
    return lon, np.arcsin((2 * theta + np.sin(2 * theta)) / np.pi), inside


def _scale(values: npt.NDArray[np.float64]) -> "Normalize":
    """Return the scale of colours of some values."""
    from matplotlib.colors import LogNorm, Normalize

    if not values.size:
        return Normalize(0, 1)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > _WIDE * low:
        return LogNorm(low, high)
    return Normalize(min(low, 0.0) if low == high else low, high)


def _to_map(ra: npt.ArrayLike, dec: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return Mollweide's longitude (mirrored, -pi to pi) and latitude in radians."""
    degrees = np.asarray(ra, dtype=np.float64)
    east = np.mod(degrees + 180.0, 360.0) - 180.0
    return np.radians(-east), np.radians(np.asarray(dec, dtype=np.float64))


def _draw_frame(axes: "Axes", coordinates: str) -> None:
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_longitude_grid_ends(90)  # type: ignore[attr-defined]
    axes.set_axisbelow(True)
    longitudes = np.arange(-150, 151, 30)
    axes.set_xticks(np.radians(longitudes), [f"{-longitude % 360}°" for longitude in longitudes])
    axes.set_yticks(np.radians(np.arange(-60, 61, 30)))
    axes.tick_params(labelsize=8, colors=FAINT)
    axes.spines["geo"].set_color(FAINT)
    axes.set_xlabel(coordinates, fontsize=9, color=INK, labelpad=14)


def _lighten_frame(axes: "Axes") -> None:
    """Let the grid and the longitudes be seen upon colours."""
    from matplotlib.patheffects import withStroke

    axes.grid(True, color="#A0A0A0", linewidth=0.5, alpha=0.7)
    for text in axes.get_xticklabels():
        text.set(color=INK, path_effects=[withStroke(linewidth=2.0, foreground="white", alpha=0.85)])


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

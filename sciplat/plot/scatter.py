"""Measured against true fluxes: the scatter, the pulls along it, and the distribution of the pulls."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sciplat.plot.figure import FAINT, INK, band_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]

PULL_LIMIT = 5.0
_BINS = 12
_FEWEST_IN_BIN = 20


def compare_fluxes(
    truth: npt.ArrayLike,
    flux: npt.ArrayLike,
    flux_err: npt.ArrayLike,
    *,
    band: npt.ArrayLike,
    clean: npt.ArrayLike,
    unit: str = "nJy",
    title: str = "",
) -> "Figure":
    """Draw measured against true fluxes, with the pulls (measured - true) / error beside them.

    Parameters
    ----------
    truth, flux, flux_err : (n,) array
        True fluxes (positive), measured fluxes and their errors, in one unit.
    band : (n,) array of str
        Band of each measurement.
    clean : (n,) array of bool
        Measurements without flags; the others are drawn in grey and have no part in the pulls.
    unit : str
        Unit of the fluxes, for the labels.
    title : str
        Title of the picture.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels. Negative measured fluxes cannot stand on the logarithmic scale of the first one.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    true, measured, error = (np.asarray(values, dtype=np.float64) for values in (truth, flux, flux_err))
    good = np.asarray(clean, dtype=bool)
    bands = np.asarray(band).astype(str)
    pull = (measured - true) / error
    figure = new_figure(11.0, 6.4)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1.0), height_ratios=(1.6, 1.0))
    upper = figure.add_subplot(grid[0, 0])
    lower = figure.add_subplot(grid[1, 0], sharex=upper)
    right = figure.add_subplot(grid[:, 1])
    _draw_fluxes(upper, true, measured, bands, good, unit)
    _draw_pulls(lower, true[good], pull[good], bands[good], unit)
    _draw_histogram(right, pull[good], bands[good])
    figure.suptitle(title, fontsize=12, color=INK)
    return figure


def _draw_fluxes(
    axes: "Axes",
    true: FloatArray,
    measured: FloatArray,
    bands: npt.NDArray[np.str_],
    good: npt.NDArray[np.bool_],
    unit: str,
) -> None:
    flagged = ~good & (measured > 0)
    if flagged.any():
        axes.scatter(
            true[flagged],
            measured[flagged],
            s=9,
            marker="x",
            linewidths=0.7,
            color=FAINT,
            label="flagged",
            rasterized=True,
        )
    for name, style in band_styles(bands).items():
        shown = good & (bands == name) & (measured > 0)
        axes.scatter(
            true[shown],
            measured[shown],
            s=5,
            linewidths=0,
            alpha=0.35,
            label=f"{name} band",
            rasterized=True,
            **style,
        )
    ends = [true.min(), true.max()] if true.size else [1.0, 10.0]
    axes.plot(ends, ends, color=INK, linewidth=0.8, label="equal")
    tidy(axes, xscale="log", yscale="log", ylabel=f"measured flux ({unit})")
    axes.tick_params(labelbottom=False)
    _legend(axes, larger=True)


def _draw_pulls(axes: "Axes", true: FloatArray, pull: FloatArray, bands: npt.NDArray[np.str_], unit: str) -> None:
    shown = np.clip(pull, -PULL_LIMIT, PULL_LIMIT)
    for name, style in band_styles(bands).items():
        own = bands == name
        axes.scatter(true[own], shown[own], s=4, linewidths=0, alpha=0.25, rasterized=True, **style)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    centre, mean, width = _binned(true, pull)
    axes.errorbar(
        centre,
        mean,
        yerr=width,
        fmt="o",
        markersize=4,
        color=INK,
        linewidth=1.2,
        capsize=2.5,
        label="mean and standard deviation",
    )
    tidy(
        axes,
        xlabel=f"true flux ({unit})",
        ylabel="pull",
        ylim=(-PULL_LIMIT - 0.3, PULL_LIMIT + 2.2),
        yticks=(-4, -2, 0, 2, 4),
    )
    _legend(axes)


def _draw_histogram(axes: "Axes", pull: FloatArray, bands: npt.NDArray[np.str_]) -> None:
    edges = np.linspace(-PULL_LIMIT, PULL_LIMIT, 51)
    for name, style in band_styles(bands).items():
        own = pull[bands == name]
        summary = name
        if own.size > 1:
            summary = f"{name}: mean {np.mean(own):+.3f}, width {np.std(own, ddof=1):.3f}"
        weights = np.full(own.size, 1.0 / (max(1, own.size) * (edges[1] - edges[0])))
        clipped = np.clip(own, -PULL_LIMIT, PULL_LIMIT)
        axes.hist(
            clipped,
            edges.tolist(),
            weights=weights,
            histtype="step",
            linewidth=1.6,
            color=style["color"],
            label=summary,
        )
    grid = np.linspace(-PULL_LIMIT, PULL_LIMIT, 301)
    normal = np.exp(-0.5 * grid**2) / np.sqrt(2.0 * np.pi)
    axes.plot(grid, normal, color=INK, linewidth=1.2, linestyle="--", label="unit normal")
    tidy(axes, xlabel="pull = (measured - true) / error", ylabel="density", xlim=(-PULL_LIMIT, PULL_LIMIT))
    axes.set_ylim(0.0, axes.get_ylim()[1] * 1.22)
    _legend(axes)


def _binned(true: FloatArray, pull: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the median flux, mean pull and standard deviation in logarithmic bins of the true flux."""
    if not true.size:
        return np.empty(0), np.empty(0), np.empty(0)
    edges = np.geomspace(true.min(), true.max() * (1.0 + 1e-9), _BINS + 1)
    index = np.digitize(true, edges) - 1
    filled = [index == i for i in range(_BINS) if np.count_nonzero(index == i) >= _FEWEST_IN_BIN]
    rows = [(np.median(true[own]), np.mean(pull[own]), np.std(pull[own], ddof=1)) for own in filled]
    centre, mean, width = np.array(rows).reshape(-1, 3).T
    return centre, mean, width


def _legend(axes: "Axes", *, larger: bool = False) -> None:
    legend = axes.legend(loc="upper left", fontsize=9, frameon=False, handletextpad=0.5)
    for handle in legend.legend_handles:
        if larger and handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([28.0])
            handle.set_alpha(1.0)

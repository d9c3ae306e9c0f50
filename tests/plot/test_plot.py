"""The pictures: what is drawn where, without pyplot, and what happens without matplotlib."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from sciplat.errors import ArgumentError
from sciplat.plot.figure import band_styles
from sciplat.plot.light_curve import LightCurve, light_curves
from sciplat.plot.scatter import compare_fluxes
from sciplat.plot.sky_map import healpix_map, sky_map
from sciplat.sky.cell import healpix_29


def png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def curve(name: str, n: int = 5) -> LightCurve:
    mjd = np.arange(60000.0, 60000.0 + n)
    band = np.array(["g", "r"] * n)[:n]
    return LightCurve(name, mjd, np.full(n, 3.0), np.full(n, 0.1), band, {"g": (mjd, np.full(n, 3.0))})


def fluxes(n: int = 400) -> Figure:
    rng = np.random.default_rng(1)
    true = 10 ** rng.uniform(2, 5, n)
    return compare_fluxes(
        true,
        true + 10 * rng.standard_normal(n),
        np.full(n, 10.0),
        band=["g", "r"] * (n // 2),
        clean=true < 5e4,
    )


def test_right_ascension_increases_to_the_left_from_the_middle() -> None:
    figure = sky_map(pa.chunked_array([[0.0, 10.0], [350.0, 359.0]]), pa.array([0.0, 10.0, -20.0, 90.0]))
    points = np.degrees(np.asarray(figure.axes[0].collections[0].get_offsets()))
    assert points[:, 0] == pytest.approx([0.0, -10.0, 10.0, 1.0])
    assert points[:, 1] == pytest.approx([0.0, 10.0, -20.0, 90.0])
    png(figure)


def test_the_sky_map_labels_the_longitudes_it_draws() -> None:
    axes = sky_map([], [], labels=[(200.0, 5.0, "here")], title="sky").axes[0]
    ticks = {
        label.get_text(): np.degrees(x) for x, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    }
    assert ticks["330°"] == pytest.approx(30.0)
    assert ticks["60°"] == pytest.approx(-60.0)
    assert [text.get_text() for text in axes.texts] == ["here"]
    assert np.degrees(axes.texts[0].xy[0]) == pytest.approx(160.0)


def test_labels_near_the_rim_stay_inside_the_map() -> None:
    figure = sky_map(
        [],
        [],
        labels=[(ra, dec, "field 00: 2,000") for ra in (1, 90, 179, 181, 270) for dec in (-90, -30, 0, 30, 90)],
    )
    figure.draw_without_rendering()
    axes = figure.axes[0]
    box = axes.get_window_extent()
    for text in axes.texts:
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0
        assert extent.x1 <= box.x1


def raster(figure: Figure) -> np.ma.MaskedArray:
    return figure.axes[0].images[0].get_array()


@pytest.mark.parametrize("order", [0, 1, 4])
def test_a_healpix_map_shows_each_pixel_where_it_is(order: int) -> None:
    """The raster's dots, projected back by matplotlib, lie in the pixel whose value they show."""
    figure = healpix_map(np.arange(12.0 * 4**order), title="numbers", label="number")
    figure.draw_without_rendering()
    axes, shown = figure.axes[0], raster(figure)
    height, width = shown.shape
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(0, height, 300), rng.integers(0, width, 300)
    inside = ~np.ma.getmaskarray(shown)[rows, columns]
    rows, columns = rows[inside], columns[inside]
    dots = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=1)
    lon, lat = np.degrees(axes.transData.inverted().transform(axes.transAxes.transform(dots))).T
    index = healpix_29(-lon, lat) >> 2 * (29 - order)
    # matplotlib inverts the projection by iteration: dots on the very border of a pixel may differ
    assert np.mean(shown[rows, columns] == index) > 0.99
    assert inside.mean() == pytest.approx(np.pi / 4, abs=0.08)


def test_equal_areas_of_the_sky_are_equal_areas_of_the_map() -> None:
    shown = raster(healpix_map(np.arange(12.0)))
    counts = np.bincount(shown.compressed().astype(int))
    assert counts == pytest.approx(np.full(12, counts.mean()), rel=0.01)


def test_empty_pixels_stay_empty_and_colours_follow_the_range() -> None:
    values = np.full(48, np.nan)
    values[5], values[6] = 1.0, 1000.0
    figure = healpix_map(values, label="rows per square degree")
    assert type(figure.axes[0].images[0].norm).__name__ == "LogNorm"
    assert set(raster(figure).compressed()) == {1.0, 1000.0}
    assert figure.axes[1].get_xlabel() == "rows per square degree"
    values[6] = 3.0
    assert type(healpix_map(values).axes[0].images[0].norm).__name__ == "Normalize"
    values[6] = -1000.0
    assert type(healpix_map(values).axes[0].images[0].norm).__name__ == "Normalize"
    for nothing in (np.full(12, np.nan), np.zeros(12), np.full(12, 7.0)):
        png(healpix_map(nothing))
    png(figure)


def test_a_healpix_map_names_its_coordinates_and_says_what_it_cannot_draw() -> None:
    assert "galactic" in healpix_map(np.arange(12.0), frame="galactic").axes[0].get_xlabel()
    assert "ICRS" in healpix_map(np.arange(12.0)).axes[0].get_xlabel()
    for wrong in (np.arange(13.0), np.arange(24.0), np.zeros((12, 1)), []):
        with pytest.raises(ArgumentError, match="HEALPix"):
            healpix_map(wrong)
    with pytest.raises(ArgumentError, match="Mollweide"):
        healpix_map(np.arange(12.0), axes=Figure().add_subplot())


def test_fluxes_show_clean_pulls_and_flagged_fluxes() -> None:
    figure = fluxes()
    upper, lower, right = figure.axes
    assert upper.get_xscale() == upper.get_yscale() == "log"
    assert [text.get_text() for text in upper.get_legend().get_texts()] == [
        "flagged",
        "g band",
        "r band",
        "equal",
    ]
    clean = sum(len(points.get_offsets()) for points in upper.collections[1:])
    assert sum(len(points.get_offsets()) for points in lower.collections[:2]) == clean
    assert len(upper.collections[0].get_offsets()) + clean == 400
    assert len(right.patches) == 2
    assert [line.get_label() for line in right.lines] == ["unit normal"]
    png(figure)


def test_pictures_of_nothing_are_drawn() -> None:
    png(compare_fluxes([], [], [], band=[], clean=[]))
    png(light_curves([]))
    png(sky_map([], []))


def test_light_curves_have_a_panel_each() -> None:
    figure = light_curves([curve(f"star {i}") for i in range(4)], unit="µJy")
    assert [axes.get_title() for axes in figure.axes] == [f"star {i}" for i in range(4)]
    assert figure.axes[0].get_ylabel() == "flux (µJy)"
    assert [axes.get_xlabel() != "" for axes in figure.axes] == [False, True, True, True]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["g band, measured", "r band, measured", "true curve"]
    png(figure)


def test_bands_differ_in_colour_and_marker() -> None:
    styles = band_styles(["r", "g", "r", "i"])
    assert list(styles) == ["g", "i", "r"]
    assert len({style["color"] for style in styles.values()}) == 3
    assert len({style["marker"] for style in styles.values()}) == 3


def test_threads_draw_the_same_picture() -> None:
    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(lambda _: png(fluxes()), range(2)))
    assert len(set(pictures)) == 1


def test_pyplot_is_never_loaded_and_absence_of_matplotlib_is_explained() -> None:
    script = textwrap.dedent(
        """
        import sys
        from sciplat.errors import MissingDependency
        from sciplat.plot.light_curve import light_curves
        from sciplat.plot.scatter import compare_fluxes
        from sciplat.plot.sky_map import healpix_map, sky_map

        assert "matplotlib" not in sys.modules
        sys.modules["matplotlib.figure"] = None  # what an absent package looks like to import
        for draw in (
            lambda: sky_map([], []),
            lambda: healpix_map(range(12)),
            lambda: light_curves([]),
            lambda: compare_fluxes([], [], [], band=[], clean=[]),
        ):
            try:
                draw()
            except MissingDependency as error:
                assert "sciplat[plot]" in error.hint
            else:
                raise SystemExit("no error")
        del sys.modules["matplotlib.figure"]
        sky_map([1.0], [2.0])
        assert "matplotlib.pyplot" not in sys.modules
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

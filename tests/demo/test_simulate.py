"""The simulated survey, read back by astropy and measured by photutils."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from photutils.aperture import CircularAperture, aperture_photometry

from sciplat.demo.exposure import star_stamps
from sciplat.demo.simulate import Survey, simulate_survey
from sciplat.demo.survey import MIN_SEPARATION, SPECIAL_FIELDS, field_centres, unit_vectors
from sciplat.errors import ArgumentError

SIZE = 256


def opened(survey: Survey) -> Iterator[tuple[str, fits.HDUList]]:
    for path in sorted(survey.images.iterdir()):
        with fits.open(path) as hdus:
            yield path.name.removesuffix(".fits.fz"), hdus


def of_image(truth: pa.Table, image_id: str) -> pa.Table:
    return truth.filter(pa.array(np.equal(truth["image_id"].to_pylist(), image_id)))


def test_counts_agree_with_the_files(survey: Survey, truth: pa.Table) -> None:
    names = {path.name.removesuffix(".fits.fz") for path in survey.images.iterdir()}
    assert len(names) == survey.n_images == 4 * 6 * 2
    assert set(truth["image_id"].to_pylist()) == names
    assert truth.num_rows == survey.n_truth
    assert sum(truth["inside"].to_pylist()) == survey.n_inside
    assert pq.read_table(survey.reference).num_rows == survey.n_reference == 2000


def test_every_image_holds_enough_sources_far_enough_apart(survey: Survey, truth: pa.Table) -> None:
    for path in survey.images.iterdir():
        rows = of_image(truth, path.name.removesuffix(".fits.fz"))
        inside = rows["inside"].to_numpy()
        assert np.count_nonzero(inside) >= 20
        x, y = rows["x"].to_numpy()[inside], rows["y"].to_numpy()[inside]
        distance = np.hypot(x[:, None] - x, y[:, None] - y)
        # distortion of a few pixels in 256 stretches the grid by a few per cent
        assert distance[~np.eye(len(x), dtype=bool)].min() > 0.85 * MIN_SEPARATION


def test_fields_hold_the_poles_the_seam_and_the_base_cell_corner(survey: Survey) -> None:
    kinds: list[str] = []
    for name, hdus in opened(survey):
        wcs = WCS(hdus["SCI"].header)
        kinds.append(hdus["SCI"].header["CTYPE1"])
        special = SPECIAL_FIELDS[int(name[6:8])]
        x, y = wcs.all_world2pix([special], 0)[0]
        assert 40 < x < SIZE - 40
        assert 40 < y < SIZE - 40
    assert kinds.count("RA---TAN") == kinds.count("RA---TAN-SIP") == len(kinds) // 2


def test_distortion_is_some_pixels_at_the_edge(survey: Survey) -> None:
    for _, hdus in opened(survey):
        wcs = WCS(hdus["SCI"].header)
        undistorted = wcs.wcs_world2pix(wcs.all_pix2world([[0.0, 0.0]], 0), 0)
        shift = np.hypot(*undistorted[0])
        assert (shift > 0.01) == wcs.wcs.ctype[0].endswith("-SIP")
        assert shift < 15.0


def test_headers_say_what_a_reader_needs(survey: Survey, truth: pa.Table) -> None:
    for name, hdus in opened(survey):
        header = hdus["SCI"].header
        row = of_image(truth, name).slice(0, 1).to_pylist()[0]
        assert header["RADESYS"] == "ICRS"
        assert header["TIMESYS"] == "TAI"
        assert header["FILTER"] == row["band"] == name[-1]
        assert header["MJD-AVG"] == row["mjd"]
        assert abs(Time(header["DATE-AVG"], scale="tai").mjd - row["mjd"]) < 1e-8
        assert header["MAGZERO"] - 2.5 * math.log10(row["flux"]) == pytest.approx(row["mag"], abs=1e-12)
        assert row["flux_nJy"] == pytest.approx(10 ** ((31.4 - row["mag"]) / 2.5), rel=1e-12)
        assert {"EXPTIME", "GAIN", "RDNOISE", "SATURATE"} <= set(header)


def test_true_positions_are_those_of_the_reference_catalog(survey: Survey, truth: pa.Table) -> None:
    reference = pq.read_table(survey.reference)
    sky = dict(
        zip(
            reference["source_id"].to_pylist(),
            zip(reference["ra"].to_pylist(), reference["dec"].to_pylist(), strict=True),
            strict=True,
        )
    )
    assert len(sky) == reference.num_rows
    for name, hdus in opened(survey):
        rows = of_image(truth, name)
        rows = rows.filter(rows["inside"])
        # pixel to sky is closed arithmetic: no iteration that could share the truth's error
        ra, dec = WCS(hdus["SCI"].header).all_pix2world(rows["x"].to_numpy(), rows["y"].to_numpy(), 0)
        expected = np.array([sky[source] for source in rows["source_id"].to_pylist()])
        offset = unit_vectors(ra, dec) - unit_vectors(expected[:, 0], expected[:, 1])
        assert np.linalg.norm(offset, axis=1).max() < np.radians(1e-6 * 0.4 / 3600)  # a millionth of a pixel


def test_no_stranger_lies_inside_an_image(survey: Survey, truth: pa.Table) -> None:
    reference = pq.read_table(survey.reference)
    known = set(truth["source_id"].to_pylist())
    strangers = reference.filter(pa.array([source not in known for source in reference["source_id"].to_pylist()]))
    directions = unit_vectors(strangers["ra"].to_numpy(), strangers["dec"].to_numpy())
    for centre in field_centres(4):
        nearest = np.degrees(np.arccos((directions @ unit_vectors(*centre)).max()))
        assert nearest > SIZE * 0.4 / 3600
    assert strangers.num_rows + len(known) == reference.num_rows
    # uniform on the sphere: a third of it lies beyond 41.8 degrees of declination
    share = np.mean(np.abs(strangers["dec"].to_numpy()) > np.degrees(np.arcsin(2 / 3)))
    assert share == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / strangers.num_rows))


def test_planes_hold_bad_and_saturated_pixels_and_the_true_noise(survey: Survey, truth: pa.Table) -> None:
    saturated = 0
    for name, hdus in opened(survey):
        science, variance, mask = (hdus[plane].data for plane in ("SCI", "VAR", "MASK"))
        assert (science.dtype, variance.dtype, mask.dtype) == (np.float32, np.float32, np.uint8)
        assert set(np.unique(mask)) <= {0, 1, 2}
        assert np.any(mask == 1)
        level = hdus["SCI"].header["SATURATE"]
        assert np.all(np.abs(science[mask == 2] - level) < 2.0)
        assert np.all(science[mask == 0] < level + 2.0)
        saturated += int(np.count_nonzero(mask == 2))
        empty = mask == 0
        for x, y in zip(*(of_image(truth, name)[axis].to_numpy() for axis in "xy"), strict=True):
            around = [slice(max(0, round(centre) - 12), max(0, round(centre) + 13)) for centre in (y, x)]
            empty[tuple(around)] = False
        gain, read_noise = hdus["SCI"].header["GAIN"], hdus["SCI"].header["RDNOISE"]
        sky = gain * (variance - (read_noise / gain) ** 2)
        pull = ((science - sky) / np.sqrt(variance))[empty]
        assert abs(pull.mean()) < 5 / math.sqrt(pull.size)
        assert abs(pull.std() - 1) < 5 / math.sqrt(2 * pull.size)
    assert saturated > 0


def test_noiseless_sums_are_the_true_fluxes(survey: Survey, truth: pa.Table) -> None:
    # The variance plane is the noiseless image in other units: sums in it need no statistics.
    for name, hdus in opened(survey):
        header, variance = hdus["SCI"].header, hdus["VAR"].data.astype(np.float64)
        rows = of_image(truth, name)
        x, y, flux = (rows[column].to_numpy() for column in ("x", "y", "flux"))
        whole = (np.minimum(x, y) > 20) & (np.maximum(x, y) < SIZE - 21)
        positions = np.column_stack((x, y))[whole]
        star, sky = (
            np.asarray(aperture_photometry(variance, CircularAperture(positions, r))["aperture_sum"])
            for r in (12.0, 17.0)
        )
        # a linear sky takes the same mean in a circle and in the ring around it
        net = header["GAIN"] * (star - (sky - star) * 12.0**2 / (17.0**2 - 12.0**2))
        step = 1e-3 * header["GAIN"] * variance.min()  # quantisation of the plane, over pi 12^2 pixels
        assert np.abs(net - flux[whole]).max() < 1e-5 * flux[whole].max() + 452 * step


def test_stamps_are_exact_integrals() -> None:
    image = np.zeros((40, 40))
    star_stamps(np.array([18.3, -0.4]), np.array([20.9, 10.0]), np.array([1000.0, 10.0]), 1.6, image)
    assert image[15:27, 15:27].max() == image[21, 18]
    assert image[:, 6:].sum() == pytest.approx(1000.0, abs=0.01)

    # one pixel against the midpoint rule on a grid of 400 x 400 points
    sub = (np.arange(400) + 0.5) / 400 - 0.5
    xx, yy = 19 + sub[None, :], 22 + sub[:, None]
    density = np.exp(-((xx - 18.3) ** 2 + (yy - 20.9) ** 2) / (2 * 1.6**2)) / (2 * np.pi * 1.6**2)
    assert image[22, 19] == pytest.approx(1000.0 * density.mean(), rel=1e-6)

    # a star beyond the edge still shines into the image: its share right of -0.5
    share = 0.5 * (1 - math.erf((-0.5 + 0.4) / (1.6 * math.sqrt(2))))
    assert image[:, :8].sum() == pytest.approx(10.0 * share, rel=1e-3)


def test_some_stars_vary_and_the_others_do_not(truth: pa.Table) -> None:
    table = truth.filter(pa.array(np.equal(truth["band"].to_pylist(), "r")))
    mag, source = table["mag"].to_numpy(), table["source_id"].to_numpy()
    _, index = np.unique(source, return_inverse=True)
    low, high = np.full(index.max() + 1, np.inf), np.full(index.max() + 1, -np.inf)
    np.minimum.at(low, index, mag)
    np.maximum.at(high, index, mag)
    varies = np.zeros(len(low), dtype=bool)
    varies[index] = table["variable"].to_numpy()
    assert 0.01 < varies.mean() < 0.1
    assert np.all((high - low)[varies] > 0.1)
    assert np.all((high - low)[~varies] == 0.0)
    assert np.ptp(table["mjd"].to_numpy()) == pytest.approx(100.0, abs=0.2)


def test_bytes_do_not_depend_on_the_workers(
    survey: Survey, make_survey: Callable[[Path, int], Survey], tmp_path: Path
) -> None:
    again = make_survey(tmp_path, 1)
    paths = {path.name: path for path in again.images.iterdir()}
    assert len(paths) == survey.n_images
    for path in survey.images.iterdir():
        assert path.read_bytes() == paths[path.name].read_bytes(), path.name
    assert survey.truth.read_bytes() == again.truth.read_bytes()
    assert survey.reference.read_bytes() == again.reference.read_bytes()


@pytest.mark.parametrize("fields", [1, 2, 3, 5, 12, 300])
def test_fields_lie_apart_all_over_the_sky(fields: int) -> None:
    vectors = unit_vectors(*field_centres(fields).T)
    assert len(vectors) == fields
    cosines = vectors @ vectors.T - 2 * np.eye(fields)
    assert np.degrees(np.arccos(cosines.max(initial=-1.0))) > min(40, 90 / math.sqrt(fields))
    if fields >= 12:
        assert np.linalg.norm(vectors.mean(axis=0)) < 0.15


def test_arguments_that_make_no_survey_are_refused(survey: Survey, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least one field"):
        simulate_survey(tmp_path / "a", fields=0)
    with pytest.raises(ArgumentError, match="do not fit"):
        simulate_survey(tmp_path / "b", fields=1, size=128, sources_per_field=300)
    with pytest.raises(ArgumentError, match="too few"):
        simulate_survey(tmp_path / "c", fields=1, size=256, sources_per_field=20, reference_rows=10)
    with pytest.raises(ArgumentError, match="holds files"):
        simulate_survey(survey.images.parent)

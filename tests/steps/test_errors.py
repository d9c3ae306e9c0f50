import re

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import FK5, ICRS, CartesianRepresentation, Galactic

from sciplat.errors import ArgumentError
from sciplat.sky.frame import turned
from sciplat.sky.motion import Errors, errors_properties
from sciplat.steps.errors import ErrorColumns, covariances, error_columns, turned_covariances
from sciplat.steps.evaluate import evaluate
from sciplat.steps.parse import parse_expression

MAS = 1 / 3_600_000
COLUMNS = ErrorColumns(("e_ra", MAS), ("e_dec", 1 / 3600), "corr")


def rows(e_ra=(3.0,), e_dec=(0.004,), corr=(0.5,), kind=None):
    return pa.table({"e_ra": pa.array(e_ra, kind or pa.float64()), "e_dec": e_dec, "corr": corr})


def test_units_become_degrees():
    properties = {"ra": {"column": "e_ra", "unit": "mas"}, "dec": {"column": "e_dec", "unit": "arcsec"}}
    found = error_columns(properties | {"corr": {"column": "corr", "unit": ""}})
    assert (found.ra[0], found.dec[0], found.corr) == ("e_ra", "e_dec", "corr")
    assert (found.ra[1], found.dec[1]) == pytest.approx((MAS, 1 / 3600), rel=1e-15)
    assert found.names == ("e_ra", "e_dec", "corr")
    assert error_columns(properties).names == ("e_ra", "e_dec")


def test_what_an_ingest_writes_is_understood():
    schema = pa.schema([pa.field("a", pa.float32(), metadata={"unit": "deg"}), ("b", pa.float32()), ("c", pa.int8())])
    found = error_columns(errors_properties(Errors("a", "b", "c"), schema))
    assert found == ErrorColumns(("a", 1.0), ("b", pytest.approx(MAS)), "c")


def test_a_correlation_in_percent_is_refused():
    each = {"column": "e", "unit": "mas"}
    with pytest.raises(ArgumentError, match="correlation 'r' is in %"):
        error_columns({"ra": each, "dec": each, "corr": {"column": "r", "unit": "%"}})


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.int16()])
def test_covariances_are_products_of_errors(kind):
    cov = covariances(rows([3, 1], [0.004, 0.002], [0.5, -0.5], kind), COLUMNS, "the left catalog")
    assert cov / MAS**2 == pytest.approx(np.array([[9, 6, 16], [1, -1, 4]]))
    without = ErrorColumns(COLUMNS.ra, COLUMNS.dec, None)
    assert (covariances(rows(), without, "the left catalog")[:, 1] == 0).all()


def test_no_rows_and_many_chunks_are_fine():
    table = pa.concat_tables([rows([1.0]), rows([2.0]), rows([3.0])])
    assert covariances(table, COLUMNS, "it")[:, 0] / MAS**2 == pytest.approx([1, 4, 9])
    assert covariances(table.slice(0, 0), COLUMNS, "it").shape == (0, 3)


BAD = {
    "e_ra": [None, float("nan"), 0.0, -1.0, float("inf"), 1e-200],
    "e_dec": [None, float("nan"), 0.0, -0.1, float("inf")],
    "corr": [None, float("nan"), 1.0, -1.0, 1.5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_errors_that_cannot_be_used_are_refused_with_their_number_and_an_example(name, value):
    good = {"e_ra": 3.0, "e_dec": 0.004, "corr": 0.5}
    three = {key: [each, each, each] for key, each in good.items()}
    three[name][1] = value
    with pytest.raises(ArgumentError, match="the right catalog: 1 of 3 rows have no usable position error") as refused:
        covariances(rows(**three), COLUMNS, "the right catalog")
    assert f"{name} = {'null' if value is None else value}" in refused.value.found


@pytest.mark.parametrize("corr", [1 - 1e-11, -1 + 1e-11])
def test_an_ellipse_that_is_a_line_is_refused(corr):
    with pytest.raises(ArgumentError, match="1 of 1 rows"):
        covariances(rows(corr=[corr]), COLUMNS, "it")
    assert covariances(rows(corr=[float(np.float32(1) - np.float32(6e-8))]), COLUMNS, "it").shape == (1, 3)


def test_the_hint_leaves_out_just_the_wrong_rows():
    wrong = [None, float("nan"), 0.0, -1.0]
    size = len(wrong) + 2
    table = pa.table({"e ra": [3.0, *wrong, 3.0], "e_dec": [0.1] * size, "corr": [0.5] * size})
    columns = ErrorColumns(("e ra", MAS), COLUMNS.dec, "corr")
    with pytest.raises(ArgumentError) as refused:
        covariances(table, columns, "it")
    condition = re.fullmatch(r"leave such rows out: \.where\('(.*)'\)", refused.value.hint)[1]
    kept = table.filter(evaluate(parse_expression(condition), table))
    assert len(covariances(kept, columns, "it")) == 2


FRAMES = [("galactic", "icrs"), ("icrs", "galactic"), ("fk5:J1975", "icrs"), ("fk5", "galactic")]
NEAR_POLE = 90 - 1e-6
PLACES = [(10.0, 0.0), (123.0, 45.0), (300.0, -62.0), (0.0, 27.1)]
PLACES += [(lon, dec) for lon in (20.0, 200.0) for dec in (NEAR_POLE, -NEAR_POLE, 89.9, -89.9)]


def astropy_frame(name):
    frames = {"icrs": ICRS(), "galactic": Galactic(), "fk5": FK5(), "fk5:J1975": FK5(equinox="J1975")}
    return frames[name]


def there_and_back(places, frame, to):
    """Return places of one frame, and those that have these places in the other one."""
    places = np.array(places)
    back = np.transpose(turned(*places.T, to, frame))
    return np.concatenate([places, back])


def east_and_north(places):
    """Return unit vectors towards east and north, shape (n, 2, 3)."""
    lon, lat = np.radians(places).T
    east = np.stack([-np.sin(lon), np.cos(lon), 0 * lon], axis=1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=1)
    return np.stack([east, north], axis=1)


def turned_axes(places, there, frame, to):
    """Return the parts of east and north of one frame along those of another one, turned by astropy; (n, 2, 2)."""
    axes = CartesianRepresentation(np.moveaxis(east_and_north(places), 2, 0))
    same = astropy_frame(frame).realize_frame(axes).transform_to(astropy_frame(to)).cartesian.xyz.value
    return east_and_north(there) @ np.moveaxis(same, 0, 1)


@pytest.mark.parametrize(("frame", "to"), FRAMES)
def test_covariances_turn_with_the_axes_of_the_frames(frame, to):
    places = there_and_back(PLACES, frame, to)
    there = np.transpose(turned(*places.T, frame, to))
    rng = np.random.default_rng(3)
    east, north = 10.0 ** rng.uniform(-2, 0, (2, len(places)))
    corr = rng.uniform(-0.95, 0.95, len(places))
    cov = np.stack([east**2, corr * east * north, north**2], axis=1)
    found = turned_covariances(cov, places[:, 0], *there.T, frame, to)
    axes = turned_axes(places, there, frame, to)
    expected = axes @ np.moveaxis(np.array([cov[:, :2].T, cov[:, 1:].T]), 2, 0) @ axes.swapaxes(1, 2)
    scale = (east**2 + north**2)[:, np.newaxis]
    assert found / scale == pytest.approx(expected[:, [0, 0, 1], [0, 1, 1]] / scale, abs=1e-6)


def test_round_errors_stay_round_and_a_frame_turns_nothing_against_itself():
    ra, dec = np.transpose([*PLACES, (0, 90), (50, -90)])
    cov = np.tile([4.0, 0.0, 4.0], (len(ra), 1))
    there = turned(ra, dec, "galactic", "icrs")
    assert turned_covariances(cov, ra, *there, "galactic", "icrs") == pytest.approx(cov, abs=1e-14)
    cov = np.tile([4.0, 0.5, 1.0], (len(ra), 1))
    assert turned_covariances(cov, ra, ra, dec, "icrs", "icrs") == pytest.approx(cov, abs=1e-14)

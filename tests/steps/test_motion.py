"""Rows at another epoch: units, missing values and epoch columns, Barnard's star and Hipparcos as published."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciplat.errors import ArgumentError
from sciplat.sky.frame import unit_vectors
from sciplat.steps.motion import AU_PER_YEAR, displacement, moved, moving

MAS = np.radians(1 / 3.6e6)
POSITION = ("ra", "dec")
MOTION = {"pmra": {"column": "pmra", "unit": "mas/yr"}, "pmdec": {"column": "pmdec", "unit": "mas/yr"}}
RADIAL = {"parallax": {"column": "plx", "unit": "mas"}, "rv": {"column": "rv", "unit": "km/s"}}
J2000 = {"motion": MOTION | RADIAL, "epoch": "J2000.0"}

# Barnard's star (HIP 87937): Gaia DR3 at J2016.0, with its radial velocity, and van Leeuwen 2007 at J1991.25
GAIA = {"ra": 269.44850252543836, "dec": 4.739420051112412, "plx": 546.976, "pmra": -801.551, "pmdec": 10362.394}
GAIA |= {"rv": -110.47}
HIPPARCOS = {"ra": 269.45402263, "dec": 4.66828781, "plx": 548.31, "pmra": -798.58, "pmdec": 10328.12, "rv": -110.47}


def table_of(n=1, **columns):
    usual = {"ra": 10.0, "dec": 0.0, "pmra": 0.0, "pmdec": 1000.0, "plx": 100.0, "rv": 0.0}
    return pa.table({name: [value] * n for name, value in usual.items()} | columns)


def mas_between(ra, dec, other_ra, other_dec):
    chord = unit_vectors(ra, dec) - unit_vectors(other_ra, other_dec)
    return np.linalg.norm(chord, axis=-1) / MAS


def test_one_astronomical_unit_a_year_is_the_constant_of_the_textbooks():
    assert pytest.approx(4.740470463, abs=1e-9) == AU_PER_YEAR


def test_properties_become_columns_and_factors():
    found = moving({"motion": MOTION | RADIAL, "epoch": "J1991.25", "frame": "icrs"}, 2016.0)
    assert found.pmra == ("pmra", pytest.approx(MAS, rel=1e-14))
    assert found.parallax == ("plx", pytest.approx(MAS, rel=1e-14))
    assert found.rv == ("rv", 1.0)
    assert (found.epoch, found.target) == (1991.25, 2016.0)
    assert found.columns == ("pmra", "pmdec", "plx", "rv")


def test_a_catalog_without_distances_and_with_an_epoch_column():
    found = moving({"motion": MOTION, "epoch": {"column": "when", "unit": "d"}}, 2016.0)
    assert found.parallax is None
    assert found.rv is None
    assert found.epoch == ("when", "d")
    assert found.columns == ("pmra", "pmdec", "when")


def test_a_parallax_without_velocities_is_not_read():
    only = MOTION | {"parallax": RADIAL["parallax"]}
    assert moving({"motion": only, "epoch": "J2000.0"}, 2016.0).columns == ("pmra", "pmdec")


@pytest.mark.parametrize("unit", ["arcsec/yr", "deg/yr", "rad/yr", "mas/d", "0.1mas/yr"])
def test_units_do_not_matter(unit):
    import astropy.units as u

    in_unit = (1000 * u.mas / u.yr).to_value(unit)
    motion = MOTION | {"pmdec": {"column": "pmdec", "unit": unit}}
    found = moved(table_of(pmdec=[in_unit]), POSITION, moving({"motion": motion, "epoch": "J2000.0"}, 2016.0))
    assert found.dec[0] == pytest.approx(16 / 3600, rel=1e-8)


def test_besselian_epochs_are_understood():
    found = moved(table_of(), POSITION, moving({"motion": MOTION, "epoch": "B1950.0"}, 2000.0))
    assert found.dec[0] * 3600 == pytest.approx(50.00021, abs=1e-5)


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"epoch": "J2000.0"}, "does not say how"),
        ({"motion": {}, "epoch": "J2000.0"}, "does not say how"),
        ({"motion": MOTION}, "no epoch"),
        ({"motion": MOTION, "epoch": "2000"}, "is no year"),
    ],
)
def test_properties_that_do_not_suffice_are_refused(properties, words):
    with pytest.raises(ArgumentError, match=words):
        moving(properties, 2016.0)


def test_missing_motions_count_as_zero_and_are_told():
    table = table_of(5, pmra=[0.0, None, np.nan, 100.0, np.inf], pmdec=[1000.0, 1000.0, 1000.0, None, 0.0])
    found = moved(table, POSITION, moving(J2000, 2016.0))
    assert found.missing.tolist() == [False, True, True, True, True]
    assert found.ra.tolist() == [10.0] * 5
    assert found.dec[1:].tolist() == [0.0] * 4
    assert found.dec[0] == pytest.approx(16 / 3600, rel=1e-8)


def test_whole_numbers_with_nulls_are_motions_too():
    table = table_of(2, pmdec=pa.array([1000, None], pa.int32()))
    found = moved(table, POSITION, moving(J2000, 2016.0))
    assert found.missing.tolist() == [False, True]
    assert found.dec.tolist() == [pytest.approx(16 / 3600, rel=1e-8), 0.0]


def test_a_known_motion_of_zero_is_not_missing():
    found = moved(table_of(pmdec=[0.0]), POSITION, moving(J2000, 2016.0))
    assert (found.ra[0], found.dec[0], found.missing[0]) == (10.0, 0.0, False)


@pytest.mark.parametrize(
    ("values", "unit"), [([2000.0, 1984.0, None, np.nan], "yr"), ([51544.5, 45700.5, None, np.nan], "d")]
)
def test_every_row_has_its_own_epoch(values, unit):
    properties = {"motion": MOTION, "epoch": {"column": "when", "unit": unit}}
    found = moved(table_of(4, when=pa.array(values)), POSITION, moving(properties, 2016.0))
    np.testing.assert_allclose(found.dec * 3600, [16.0, 32.0, 0.0, 0.0], rtol=1e-7)
    assert found.missing.tolist() == [False, False, True, True]


def test_days_taken_for_years_are_refused():
    properties = {"motion": MOTION, "epoch": {"column": "when", "unit": "yr"}}
    with pytest.raises(ArgumentError, match="no epochs"):
        moved(table_of(when=[57388.5]), POSITION, moving(properties, 2016.0))


def test_distances_that_are_not_known_stay_as_they_are():
    parallax, rv = [100.0, None, np.nan, 0.0, -100.0, 100.0, 100.0], [-1e4] * 5 + [None, np.nan]
    table = table_of(7, plx=pa.array(parallax), rv=pa.array(rv))
    found = moved(table, POSITION, moving(J2000, 2050.0))
    assert not found.missing.any()
    assert found.dec[0] > 1.05 * found.dec[1]
    constant = moved(table, POSITION, replace(moving(J2000, 2050.0), rv=None))
    assert found.dec[1:].tolist() == constant.dec[1:].tolist()


def test_no_rows_and_pieces_of_columns():
    whole = table_of(100, pmra=np.random.default_rng(0).normal(0, 1e4, 100), rv=[-50.0] * 100)
    away = moving(J2000, 2016.0)
    assert moved(whole.slice(0, 0), POSITION, away).ra.shape == (0,)
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 60), whole.slice(61)])
    found, expected = moved(pieces, POSITION, away), moved(whole, POSITION, away)
    assert found.ra.tobytes() == expected.ra.tobytes()
    assert found.dec.tobytes() == expected.dec.tobytes()


def test_gaia_takes_barnards_star_back_to_where_hipparcos_saw_it():
    gaia = pa.table({name: [value] for name, value in GAIA.items()})
    back = moving({"motion": MOTION | RADIAL, "epoch": "J2016.0"}, 1991.25)
    found = moved(gaia, POSITION, back)
    assert mas_between(found.ra, found.dec, HIPPARCOS["ra"], HIPPARCOS["dec"])[0] < 3.0
    straight = moved(gaia, POSITION, replace(back, rv=None))
    assert mas_between(straight.ra, straight.dec, HIPPARCOS["ra"], HIPPARCOS["dec"])[0] > 350.0


def test_hipparcos_takes_barnards_star_to_where_gaia_saw_it():
    hipparcos = pa.table({name: [value] for name, value in HIPPARCOS.items()})
    found = moved(hipparcos, POSITION, moving({"motion": MOTION | RADIAL, "epoch": "J1991.25"}, 2016.0))
    # the errors of the Hipparcos motions, 1.7 and 1.2 mas/yr, are 50 mas in 25 years
    assert mas_between(found.ra, found.dec, GAIA["ra"], GAIA["dec"])[0] < 100.0


@pytest.mark.parametrize("year", [2000.0, 2016.0])
def test_hipparcos_as_others_propagated_it(data, year):
    table = pq.read_table(data / "allsky" / "hip2.parquet")
    found = moved(table, POSITION, moving({"motion": MOTION, "epoch": "J1991.25"}, year))
    ra, dec = (table[f"{name}_j{year:.0f}"].to_numpy() for name in POSITION)
    assert len(ra) > 117_000
    assert not found.missing.any()
    assert mas_between(found.ra, found.dec, ra, dec).max() < 1e-6


def test_a_displacement_is_the_angle_between_the_positions():
    rng = np.random.default_rng(1)
    n = 2000
    names = ("ra", "dec", "pmra", "pmdec", "plx", "rv")
    values = (rng.uniform(0, 360, n), rng.uniform(-90, 90, n), *rng.normal(0, 1e5, (2, n)), np.full(n, 500.0))
    table = pa.table(dict(zip(names, (*values, rng.normal(0, 3e4, n)), strict=True)))
    away = moving(J2000, 2050.0)
    found = moved(table, POSITION, away)
    pm = np.hypot(table["pmra"].to_numpy(), table["pmdec"].to_numpy()) * MAS
    radial = table["rv"].to_numpy() / AU_PER_YEAR * 500.0 * MAS
    between = mas_between(found.ra, found.dec, table["ra"].to_numpy(), table["dec"].to_numpy()) * MAS
    angle = np.degrees(2 * np.arcsin(between / 2))
    passed = 1 + radial * 50.0 <= 0
    assert 0 < passed.sum() < n / 10
    np.testing.assert_allclose(displacement(pm, radial, 50.0), np.where(passed, 180.0, angle), atol=2e-13)


def test_extremes_bound_the_displacements_of_a_set():
    rng = np.random.default_rng(2)
    pm, radial, years = rng.uniform(0, 1e-4, 5000), rng.normal(0, 1e-3, 5000), rng.uniform(-300, 300, 5000)
    farthest = displacement(pm.max(), -np.abs(radial).max(), np.abs(years).max())
    assert displacement(pm, radial, years).max() <= farthest
    assert np.degrees(pm * np.abs(years)).max() < displacement(pm, radial, years).max()  # those that come near
    assert np.all(displacement(pm, np.abs(radial), np.abs(years)) <= np.degrees(pm * np.abs(years)))
    assert displacement(0.0, -1e-3, 100.0) == 0.0
    assert displacement(pm.max(), -0.01, 100.0) == 180.0

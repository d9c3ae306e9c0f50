"""Epochs in text and in columns against astropy's time."""

import numpy as np
import pytest
from astropy.time import Time

from sciplat.errors import ArgumentError
from sciplat.sky.epoch import julian_year, years_of


@pytest.mark.parametrize("text", ["J2016.0", "J2000", "J1991.25", "B1950.0", "B1900", "B1875.5", "B2000.0"])
def test_text_is_read_as_astropy_reads_it(text):
    assert julian_year(text) == pytest.approx(Time(text, scale="tt").jyear, abs=1e-9)


def test_julian_years_keep_their_bits():
    assert julian_year("J2015.5") == 2015.5


@pytest.mark.parametrize("text", ["2016.0", "J16", "j2016.0", "B1950.", "J2016.0 ", "", "MJD 57388", 2016.0, None])
def test_what_is_no_epoch_is_refused(text):
    with pytest.raises(ArgumentError, match="is no year"):
        julian_year(text)


def test_years_stay_as_they_are():
    years = np.array([1991.25, 2016.0, 1875.5])
    np.testing.assert_array_equal(years_of(years, "yr"), years)


def test_days_are_modified_julian_dates():
    days = np.array([51544.5, 57388.5, 33282.0, -4000.25])
    np.testing.assert_allclose(years_of(days, "d"), Time(days, format="mjd", scale="tt").jyear, rtol=0, atol=1e-9)


def test_whole_numbers_become_years():
    years = years_of(np.array([2000, 2016], dtype=np.int16), "yr")
    assert years.dtype == np.float64
    assert years.tolist() == [2000.0, 2016.0]


@pytest.mark.parametrize("unit", ["yr", "d"])
def test_an_epoch_that_is_not_there_is_not_finite(unit):
    years = years_of(np.array([np.nan, np.inf, 2000.0]), unit)
    assert np.isfinite(years).tolist() == [False, False, True]


@pytest.mark.parametrize(("value", "unit"), [(57388.5, "yr"), (0.0, "yr"), (-9999.0, "yr"), (2457389.0, "d")])
def test_numbers_that_are_no_epochs_are_refused(value, unit):
    with pytest.raises(ArgumentError, match="no epochs") as caught:
        years_of(np.array([np.nan, value]), unit)
    assert caught.value.found == f"{value:g} {unit}"


def test_another_unit_is_refused():
    with pytest.raises(ArgumentError, match="'s'"):
        years_of(np.array([2000.0]), "s")

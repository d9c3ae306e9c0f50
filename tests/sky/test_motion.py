import astropy.units as u
import pyarrow as pa
import pytest

from sciplat.errors import ArgumentError, ColumnError
from sciplat.sky.motion import Errors, Motion, epoch_property, errors_properties, motion_properties


def schema(**units):
    """Return a schema with a column of floats for each unit; None for none."""
    about = {name: None if unit is None else {"unit": unit} for name, unit in units.items()}
    return pa.schema([pa.field(name, pa.float64(), metadata=metadata) for name, metadata in about.items()])


GAIA = schema(pmra="mas/yr", pmdec="mas.yr**-1", parallax="mas", rv="km s-1", e_ra=None, e_dec="arcsec", corr=None)


def test_columns_are_named_with_their_units():
    assert motion_properties(Motion("pmra", "pmdec", parallax="parallax", rv="rv"), GAIA) == {
        "pmra": {"column": "pmra", "unit": "mas/yr"},
        "pmdec": {"column": "pmdec", "unit": "mas/yr"},
        "parallax": {"column": "parallax", "unit": "mas"},
        "rv": {"column": "rv", "unit": "km/s"},
    }
    assert errors_properties(Errors("e_ra", "e_dec", corr="corr"), GAIA) == {
        "ra": {"column": "e_ra", "unit": "mas"},
        "dec": {"column": "e_dec", "unit": "arcsec"},
        "corr": {"column": "corr", "unit": ""},
    }


def test_one_column_is_not_two_things():
    with pytest.raises(ArgumentError, match=r"(?s)Motion: the column 'pm' .* two things.*pmra='pm', pmdec='pm'"):
        Motion(pmra="pm", pmdec="pm")
    with pytest.raises(ArgumentError, match=r"(?s)Errors.*dec='e', corr='e'"):
        Errors("e_ra", "e", corr="e")


def test_what_is_not_named_is_not_said():
    assert set(motion_properties(Motion("pmra", "pmdec"), GAIA)) == {"pmra", "pmdec"}
    assert set(errors_properties(Errors("e_ra", "e_dec"), GAIA)) == {"ra", "dec"}


@pytest.mark.parametrize("unit", ["mas/yr", "mas yr-1", "arcsec / yr", "deg/yr", "milliarcsecond/year", "rad/s"])
def test_a_unit_is_written_as_astropy_reads_it(unit):
    (found, _) = motion_properties(Motion("a", "b"), schema(a=unit, b=None)).values()
    assert u.Unit(found["unit"]) == u.Unit(unit)


@pytest.mark.parametrize(
    ("make", "units"),
    [
        (lambda s: motion_properties(Motion("a", "b"), s), {"a": "mas", "b": None}),
        (lambda s: motion_properties(Motion("a", "b"), s), {"a": None, "b": "furlong/yr"}),
        (lambda s: motion_properties(Motion("a", "b", parallax="c"), s), {"a": None, "b": None, "c": "pc"}),
        (lambda s: motion_properties(Motion("a", "b", rv="c"), s), {"a": None, "b": None, "c": "mas/yr"}),
        (lambda s: errors_properties(Errors("a", "b"), s), {"a": "mas/yr", "b": None}),
        (lambda s: errors_properties(Errors("a", "b", corr="c"), s), {"a": None, "b": None, "c": "mas"}),
    ],
)
def test_a_unit_that_cannot_be_converted_is_refused(make, units):
    with pytest.raises(ArgumentError, match=r"column .* is in "):
        make(schema(**units))


def test_columns_must_be_there_and_hold_numbers():
    with pytest.raises(ColumnError, match=r"no column 'pm' \(motion, pmra\)"):
        motion_properties(Motion("pm", "pmdec"), GAIA)
    with pytest.raises(ColumnError, match=r"no column 'e' \(errors, dec\)"):
        errors_properties(Errors("e_ra", "e"), GAIA)
    texts = pa.schema([("a", pa.string()), ("b", pa.bool_()), ("n", pa.int32())])
    for name in ("a", "b"):
        with pytest.raises(ArgumentError, match="does not hold numbers"):
            motion_properties(Motion("n", name), texts)
        with pytest.raises(ArgumentError, match="does not hold numbers"):
            epoch_property(name, texts)


@pytest.mark.parametrize("epoch", [None, "J2016.0", "B1950", "J1991.25"])
def test_an_epoch_of_all_rows_is_kept_as_it_is(epoch):
    assert epoch_property(epoch, GAIA) == epoch


def test_an_epoch_may_be_a_column_of_years_or_days():
    columns = schema(year=None, epoch="yr", mjd="d", day="day", speed="km/s", seconds="s")
    for name, unit in (("year", "yr"), ("epoch", "yr"), ("mjd", "d"), ("day", "d")):
        assert epoch_property(name, columns) == {"column": name, "unit": unit}
    for name in ("speed", "seconds"):
        with pytest.raises(ArgumentError, match="is in"):
            epoch_property(name, columns)


@pytest.mark.parametrize("epoch", ["2016", "J16", "last year", "", 2016.0])
def test_an_epoch_that_is_neither_is_refused(epoch):
    with pytest.raises(ArgumentError, match="no year and no column"):
        epoch_property(epoch, GAIA)

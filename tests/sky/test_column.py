import pyarrow as pa

from sciplat.sky.column import shown_names, unit_of


def test_a_unit_is_read_as_it_stands_and_damaged_letters_do_no_harm():
    units = {b" mas / yr ": "mas / yr", b"\xb5Jy": "\ufffdJy", b"": ""}
    for written, unit in units.items():
        assert unit_of(pa.field("x", pa.float64(), metadata={b"unit": written})) == unit
    assert unit_of(pa.field("x", pa.float64())) == ""


def test_many_names_are_counted():
    assert shown_names(["ra", "dec"]) == "ra, dec"
    assert shown_names([f"c{i}" for i in range(30)]).endswith("c29")
    assert shown_names([f"c{i}" for i in range(32)]).endswith("c29 and 2 more")

"""Types of text over files: what would lose digits is refused."""

import pyarrow as pa
import pytest

from sciplat.errors import InputError
from sciplat.ingest.sources import open_sources

CHUNK = 1 << 20


def read_sources(sources):
    return pa.concat_tables(table for part in open_sources(sources, chunk=CHUNK).parts for table in part.read())


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("first", "second", "places"),
    [
        ("9007199254740993", "0.5", ["x.csv, line 2: 9007199254740993", "y.csv, line 2: 0.5"]),
        ("-1", "18446744073709551615", ["y.csv, line 2: 18446744073709551615", "x.csv, line 2: -1"]),
    ],
)
def test_whole_numbers_of_text_are_never_rounded_over_files(tmp_path, first, second, places):
    files = [write(tmp_path / name, f"id,b\n{text},1\n".encode())
             for name, text in (("x.csv", first), ("y.csv", second))]  # fmt: skip
    for path in files:
        read_sources(path)
    with pytest.raises(InputError, match="the column 'id' holds whole numbers that would lose digits") as refused:
        open_sources(files, chunk=CHUNK)
    assert all(place in refused.value.found for place in places)
    assert refused.value.hint


def test_whole_numbers_of_text_are_not_rounded_to_what_another_source_states(tmp_path):
    path = write(tmp_path / "x.csv", b"id\n1\n9007199254740993\n")
    with pytest.raises(InputError, match="'id' holds whole numbers that would lose digits") as refused:
        open_sources([pa.table({"id": [0.5]}), path], chunk=CHUNK)
    assert refused.value.found == f"{path}, line 3: 9007199254740993 and double in table 1 in memory"


def test_hexadecimal_numbers_beside_fractions_are_text_in_one_file_or_two(tmp_path):
    files = [write(tmp_path / "x.csv", b"id,b\n0x10,1\n"), write(tmp_path / "y.csv", b"id,b\n1.5,2\n")]
    assert read_sources(files[0])["id"].to_pylist() == [16]
    assert read_sources(files)["id"].to_pylist() == ["0x10", "1.5"]
    assert read_sources(write(tmp_path / "z.csv", b"id,b\n0x10,1\n1.5,2\n"))["id"].to_pylist() == ["0x10", "1.5"]

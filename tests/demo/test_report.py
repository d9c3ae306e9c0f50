"""The report's verdict on measurements made from the truth with noise of known width."""

import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sciplat.demo.page import render_page
from sciplat.demo.report import Report, make_report
from sciplat.errors import ColumnError, MeasurementError

PNG = b"\x89PNG"


def measured(truth: pa.Table, *, bias: float = 0.0, scale: float = 1.0) -> pa.Table:
    """Return measurements of the sources inside, off by `bias` + `scale` x normal noise, in errors."""
    table = truth.filter(truth["inside"])
    n = table.num_rows
    flux = table["flux_nJy"].to_numpy()
    error = 400.0 + 0.005 * flux
    flags = np.where(np.arange(n) % 20 == 7, 2, 0).astype(np.int32)
    noise = bias + scale * np.random.default_rng(3).standard_normal(n)
    # a flagged measurement may be anything
    found = np.where(flags > 0, 0.3 * flux, flux * share(table, 8.0) + noise * error)
    return pa.table(
        {
            **{name: table[name] for name in ("source_id", "image_id", "mjd", "band", "x", "y")},
            "ra": np.full(n, 359.9),
            "dec": np.linspace(-80.0, 80.0, n),
            "flags_0": np.full(n, 4, dtype=np.int32),
            "flux_nJy_0": np.full(n, 1.0),
            "flux_nJy_err_0": np.full(n, 1.0),
            "flags_1": flags,
            "flux_nJy_1": found,
            "flux_nJy_err_1": error,
        }
    )


def share(table: pa.Table, radius: float) -> np.ndarray:
    return 1.0 - np.exp(-(radius**2) / (2 * table["psf_sigma"].to_numpy() ** 2 + 1 / 3))


def nested(table: pa.Table) -> pa.Table:
    curves: dict[int, list[dict[str, object]]] = {}
    for row in table.select(["source_id", "mjd", "band", "flux_nJy_1", "flux_nJy_err_1"]).to_pylist():
        curves.setdefault(row.pop("source_id"), []).append(row)
    return pa.table({"source_id": list(curves), "light_curve": list(curves.values())})


def report_on(table: pa.Table, truth: pa.Table, folder: Path) -> Report:
    return make_report(table, truth, nested(table), folder, run={"seconds": '1 < 2 & "3"'})


def test_right_measurements_pass(truth: pa.Table, tmp_path: Path) -> None:
    report = report_on(measured(truth), truth, tmp_path)
    report.check()
    assert report.passed
    comparison, total = report.comparison, report.pulls[-1]
    assert comparison.n_measured == comparison.n_expected == np.count_nonzero(truth["inside"])
    assert (comparison.missing, comparison.duplicates, comparison.unexpected) == (0, 0, 0)
    assert [pull.name for pull in report.pulls] == ["g", "r", "all"]
    assert total.n == sum(pull.n for pull in report.pulls[:-1]) > 1000
    assert abs(total.mean) < 4 / math.sqrt(total.n)
    assert abs(total.width - 1) < 4 / math.sqrt(2 * total.n)
    assert total.flux_ratio == pytest.approx(1.0, abs=0.01)
    assert ("measurements", f"{comparison.n_expected:,}", f"{comparison.n_expected:,}") in report.table()
    for path in (report.sky_map, report.fluxes, report.light_curves):
        assert path.parent == tmp_path
        assert path.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"bias": 0.2}, "mean [+]0.2"), ({"scale": 1.2}, "width 1.2"), ({"scale": 0.8}, "width 0.8")],
)
def test_wrong_fluxes_or_errors_fail(truth: pa.Table, tmp_path: Path, wrong: dict[str, float], says: str) -> None:
    report = report_on(measured(truth, **wrong), truth, tmp_path)
    assert not report.passed
    with pytest.raises(MeasurementError, match=says):
        report.check()
    assert "Failed." in report.page.read_text()


def test_missing_doubled_and_foreign_rows_fail(truth: pa.Table, tmp_path: Path) -> None:
    table = measured(truth)
    foreign = table.slice(0, 1).set_column(0, "source_id", pa.array([-1]))
    cases = {
        "measurements missing: 1": table.slice(1),
        "measurements made more than once: 1": pa.concat_tables([table, table.slice(5, 1)]),
        "measurements of nothing expected: 1": pa.concat_tables([table, foreign]),
    }
    for says, wrong in cases.items():
        report = report_on(wrong, truth, tmp_path)
        assert report.failures() == [says]
        with pytest.raises(MeasurementError, match=says):
            report.check()


def test_a_shifted_position_fails(truth: pa.Table, tmp_path: Path) -> None:
    table = measured(truth)
    x = table["x"].to_numpy().copy()
    x[17] += 0.01
    table = table.set_column(table.column_names.index("x"), "x", pa.array(x))
    report = report_on(table, truth, tmp_path)
    assert report.comparison.position_error == pytest.approx(0.01, rel=1e-6)
    assert not report.passed


def test_a_missing_flux_or_nothing_clean_fails(truth: pa.Table, tmp_path: Path) -> None:
    table = measured(truth)
    flux = table["flux_nJy_1"].to_pylist()
    flux[0] = None
    index = table.column_names.index("flux_nJy_1")
    report = report_on(table.set_column(index, "flux_nJy_1", pa.array(flux)), truth, tmp_path)
    assert not report.passed

    flagged = table.set_column(table.column_names.index("flags_1"), "flags_1", pa.array([1] * table.num_rows))
    report = report_on(flagged, truth, tmp_path)
    assert report.pulls[-1].n == 0
    assert not report.passed


def test_nothing_measured_fails_with_a_page(truth: pa.Table, tmp_path: Path) -> None:
    table = measured(truth)
    report = make_report(table.slice(0, 0), truth, nested(table).slice(0, 0), tmp_path, run={})
    assert report.comparison.missing == report.comparison.n_expected
    assert not report.passed
    assert report.page.is_file()


def test_absent_columns_are_named(truth: pa.Table, tmp_path: Path) -> None:
    table = measured(truth)
    with pytest.raises(ColumnError, match="dec"):
        make_report(table.drop_columns(["dec"]), truth, nested(table), tmp_path, run={})
    with pytest.raises(ColumnError, match="flux_nJy_0"):
        make_report(table.select(["source_id"]), truth, nested(table), tmp_path, run={})
    with pytest.raises(ColumnError, match="light_curve"):
        make_report(table, truth, table, tmp_path, run={})


class Reader(HTMLParser):
    """What a browser would see and load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "img"}:
            self.open.append(tag)
        self.loads += [str(value) for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_loads_nothing(truth: pa.Table, tmp_path: Path) -> None:
    text = report_on(measured(truth), truth, tmp_path).page.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert len(reader.loads) == 3
    assert all(source.startswith("data:image/png;base64,") for source in reader.loads)
    assert "http" not in "".join(part for part in text.split('"') if not part.startswith("data:"))
    assert "url(" not in text
    assert "@import" not in text
    assert '1 < 2 & "3"' in reader.text


def test_the_page_escapes_what_it_is_given() -> None:
    bad = "<script>alert('1')</script>"
    text = render_page(failures=[bad], rows=[(bad, bad, bad)], run={bad: bad}, pictures=[])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 6

"""The benchmarks run, and what they compare agrees; their speeds are for `make bench`."""

import json
import shutil

import numpy as np
import pytest

from tests.conftest import required


def test_apertures():
    if not required("rivals"):
        pytest.importorskip("sep")
        pytest.importorskip("photutils")
    from benchmarks import bench_aperture

    found = bench_aperture.run(small=True)
    assert set(found["rows"]) == {"5 radii", "r = 3", "r = 10", "annulus median"}
    for row in found["rows"].values():
        assert "photutils" in row["agreement"]
        assert all(worst <= 1e-6 for worst in row["agreement"].values())
        assert set(row["seconds"]) == set(row["ratio"])
        assert all(seconds > 0 for seconds in row["seconds"].values())
    assert json.loads(json.dumps(found)) == found


def test_answers_that_differ_start_no_clock(monkeypatch):
    if not required("rivals"):
        pytest.importorskip("sep")
        pytest.importorskip("photutils")
    from benchmarks import bench_aperture

    measure = bench_aperture.our_sums

    def wrong(*arguments):
        flux, *others = measure(*arguments)
        return flux * (1 + 1e-5), *others

    monkeypatch.setattr(bench_aperture, "our_sums", wrong)
    with pytest.raises(AssertionError, match="no clock starts"):
        bench_aperture.run(small=True)


def test_the_pipeline():
    """It measures what the loop over the FITS files measures, or no clock starts."""
    if not required("rivals"):
        pytest.importorskip("photutils")
    from benchmarks import bench_pipeline

    found = bench_pipeline.run(small=True)
    assert found["images"] == 8
    assert found["measurements"] > 100
    assert found["ratio_to_reading"] == pytest.approx(found["plan_s"] / found["read_same_pixels_s"], rel=0.1)
    assert json.loads(json.dumps(found)) == found


def test_the_engine():
    """A plan of many empty tasks is published with the rows of the few that give one."""
    from benchmarks import bench_engine

    found = bench_engine.run(small=True)
    assert found["tasks"] == 3000
    assert found["ratio_to_dask_map"] == pytest.approx(
        found["dask_map_us_per_task"] / found["cluster_us_per_task"], rel=0.1
    )
    assert {"client_grew_mb", "scheduler_grew_mb", "threads_us_per_task"} <= set(found)


def test_the_quotes(tmp_path, monkeypatch):
    """Three plans are quoted and run; rows that can be known are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from benchmarks import bench_quote

    plans = bench_quote.run(small=True)["plans"]
    assert set(plans) == {"photometry", "part of a catalog", "light curves"}
    for figures in plans.values():
        assert all(min(quote, actual) > 0 for quote, actual, _ in figures.values())
    assert plans["part of a catalog"]["rows"][2] == pytest.approx(1, abs=0.05)


def test_the_ingest():
    """It and hats-import make catalogs of the same rows, or no figure is given; larger inputs are ingested whole."""
    if not required("rivals"):
        pytest.importorskip("hats_import")
    from benchmarks import bench_ingest

    found = bench_ingest.run(small=True)
    assert [each["rows"] for each in found["growth"]] == [40_000, 160_000]
    assert found["ratio"] == pytest.approx(found["hats_import_s"] / found["sciplat_s"], rel=0.1)
    assert json.loads(json.dumps(found)) == found


def test_the_cones():
    """All ways find the same sources, or no clock starts."""
    if not required("rivals"):
        pytest.importorskip("lsdb")
    from benchmarks import bench_cone

    found = bench_cone.run(small=True)
    assert found["cones"].keys() == bench_cone.RADII.keys()
    assert all(rows > 0 for cone in found["cones"].values() for rows in cone["rows"])
    assert json.loads(json.dumps(found)) == found


# lsdb and nested-pandas use what pandas 3 calls deprecated, and hats-import reads a catalog without its summary
@pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated")
@pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame")
@pytest.mark.filterwarnings("ignore:Computing partitions from catalog parquet files")
def test_the_cross_matches():
    """All find the pairs that scipy finds, or no clock starts; larger inputs are matched whole."""
    if not required("rivals"):
        pytest.importorskip("lsdb")
        pytest.importorskip("hats_import")
    from benchmarks import bench_crossmatch

    found = bench_crossmatch.run(small=True)
    assert found["pairs"] == pytest.approx(0.75 * found["rows"], rel=0.02)
    for what in found["catalogs"]["sciplat"].values():
        seconds = [what[who]["seconds"] for who in ("lsdb", "sciplat")]
        assert what["ratio"]["seconds"] == pytest.approx(seconds[0] / seconds[1], abs=0.06)
    assert {"scipy", "astropy"} <= found["kernel"]["ratio"].keys()
    assert ("seconds" in found["stilts"]) == (shutil.which("stilts") is not None)
    assert [each["rows"] for each in found["growth"]] == [40_000]
    assert json.loads(json.dumps(found)) == found


def test_the_gateways():
    """Clusters of both measure the same, or no figure is given; a quota's message is in every refusal."""
    if not required("gateway"):
        pytest.importorskip("dask_gateway_server")
    from benchmarks import bench_gateway

    found = bench_gateway.run(small=True)
    started = found["local"]["compiled"]
    for side in ("dask-gateway", "sciplat"):
        reached = [seconds["median"] for seconds in started["seconds"][side].values()]
        assert reached == sorted(reached)
    plain, ours = (started["seconds"][side]["first worker"]["least"] for side in ("dask-gateway", "sciplat"))
    assert started["ratio"]["sciplat"]["first worker"]["least"] == pytest.approx(ours / plain, abs=0.01)
    requests = found["requests"]
    assert (requests["granted"], requests["refused"]) == (1, 11)
    assert "1 cluster of 1 cluster" in requests["message"]
    assert json.loads(json.dumps(found)) == found


def test_results_of_clusters_that_differ_give_no_figures():
    if not required("gateway"):
        pytest.importorskip("dask_gateway_server")
    from benchmarks import bench_gateway

    bench_gateway.check(["a", "a"])
    with pytest.raises(AssertionError, match="no clock counts"):
        bench_gateway.check(["a", "b"])


def test_pairs_that_differ_start_no_clock(tmp_path):
    from benchmarks import bench_crossmatch

    np.save(tmp_path / "pairs.npy", [[1, 5], [2, 7]])
    with pytest.raises(AssertionError, match="no clock starts"):
        bench_crossmatch.check(np.array([2, 1]), np.array([7, 6]), str(tmp_path))

"""`import sciplat` is light; names load on first use."""

import subprocess
import sys

import sciplat

HEAVY = ("dask", "distributed", "astropy", "numba", "pandas", "matplotlib", "zarr", "pyarrow", "numpy")


def loaded_after(code):
    probe = f"{code}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.strip()


def test_the_import_loads_nothing_heavy():
    assert loaded_after("import sciplat") == "[]"


def test_the_command_line_s_help_loads_nothing_heavy():
    assert loaded_after("import sciplat.cli.main") == "[]"


def test_opening_a_catalog_needs_no_dask_numba_or_zarr():
    table = {"ra": [1.0], "dec": [2.0]}
    code = f"import pyarrow, sciplat; sciplat.ingest_catalog(pyarrow.table({table!r}), 'memory://import').head()"
    loaded = loaded_after(code)
    assert "'pyarrow'" in loaded
    assert not any(f"'{name}'" in loaded for name in ("dask", "distributed", "numba", "zarr"))


def test_every_public_name_exists():
    for name in sciplat.__all__:
        assert getattr(sciplat, name).__doc__, name
    assert set(sciplat.__all__) <= set(dir(sciplat))

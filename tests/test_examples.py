"""The examples run from the first line to the last, each in a folder of its own."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
MADE = {
    "01_forced_photometry.py": "report/report.html",
    "04_catalogs.py": "sky.png",
    "05_crossmatch.py": "separations.png",
    "06_cluster.py": "gateway/audit.jsonl",
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_a_script_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", path, "out"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "agree with the truth" in done.stdout
    assert (tmp_path / "out" / MADE.get(path.name, "")).exists()


@pytest.mark.filterwarnings("default")  # of Jupyter's own machinery; the notebook runs in another process
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_an_example_is_short_and_without_output(path):
    if path.suffix == ".py":
        assert len(path.read_text().splitlines()) < 60
    else:
        assert all(not cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)

import json
import subprocess
import sys

import pytest

import sciplat
from sciplat.demo.run import run_demo
from sciplat.errors import MeasurementError, StoreExists


def sciplat_command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", "from sciplat.cli.main import main; main()", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_passes_its_own_judgement(tmp_path):
    """The whole main job at its full size."""
    done = sciplat_command("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for stage in ("simulated", "ingested", "plan", "measured", "nested", "reported"):
        assert f"\n{stage} " in f"\n{done.stdout}"
    output = tmp_path / "demo-output"
    images = sciplat.open_images(output / "images")
    assert len(images) == 72
    assert images.bands == ["g", "r"]
    assert len(sciplat.open_catalog(output / "catalog")) >= 100_000
    measured = sciplat.open_catalog(output / "photometry")
    per_image = measured.select("image_id").to_pandas().groupby("image_id").size()
    assert len(per_image) == 72
    assert per_image.min() >= 300
    assert {json.loads(text)["CTYPE1"] for text in images.rows["wcs"].to_pylist()} == {"RA---TAN", "RA---TAN-SIP"}
    assert (output / "report" / "report.html").stat().st_size > 100_000


def test_a_small_demo_can_be_run_again_in_its_folder(tmp_path):
    for _ in range(2):
        assert run_demo(tmp_path / "out", fields=4).passed


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreExists, match="not made by a demo"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_wrong_numbers_fail_the_demo(tmp_path, monkeypatch):
    """A bias of a tenth of the error in every flux is found."""
    from sciplat.tasks import photometry

    right = photometry.measure

    def biased(*arguments):
        measured = right(*arguments)
        return {
            name: values + 0.1 * measured[name.replace("_nJy_", "_nJy_err_")]
            if name.startswith("flux_nJy_") and "err" not in name
            else values
            for name, values in measured.items()
        }

    monkeypatch.setattr(photometry, "measure", biased)
    with pytest.raises(MeasurementError, match="mean"):
        run_demo(tmp_path / "out", fields=6).check()

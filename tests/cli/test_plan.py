"""`status`, `rerun`, `replay` and `calibrate` as they are used: from another terminal, in the folder of the project."""

import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

import sciplat
from sciplat.cli.main import main
from sciplat.errors import StepError
from tests.plan_scene import SCHEMA, stars, write_stars
from tests.sky_scene import WHOLE_SKY

STEPS = """
import time
from pathlib import Path


def wait(table):
    while not Path("go").exists():
        time.sleep(0.01)
    return table
"""
WRITE = """
import sys
import sciplat, waiting_steps
catalog = sciplat.open_catalog("stars")
catalog.map(waiting_steps.wait, schema=catalog.schema).write("out")
"""


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def facts(output):
    """Return what `status` shows of its last log."""
    lines = [line.split(None, 1) for line in output.splitlines() if line.strip()]
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


def fail_where_few(table):
    if table.num_rows == 1:
        raise ValueError("too few [/] stars")  # rich must not take it for markup
    return table


@pytest.fixture
def project(tmp_path):
    """Return the folder in which a user works."""
    write_stars(tmp_path / "stars", [child for base in WHOLE_SKY for child in base.children])
    (tmp_path / "waiting_steps.py").write_text(STEPS)
    (tmp_path / "write.py").write_text(WRITE)
    return tmp_path


@pytest.fixture
def running(project):
    """Return a process that writes a plan and waits in its first cells."""
    process = subprocess.Popen([sys.executable, "write.py"], cwd=project)
    deadline = time.monotonic() + 60
    while run("status", project / "out").exit_code:
        assert time.monotonic() < deadline
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()


def test_the_status_of_a_run_in_another_process(project, running):
    shown = run("status", project / "out")
    known = facts(shown.output)
    assert known["plan"] == "map"
    assert known["state"].startswith("running or killed, last heard of at 2")
    assert known["cells"].startswith("0 of ")
    assert f"process {running.pid}" in " ".join(shown.output.split())
    (project / "go").touch()
    assert running.wait(60) == 0
    known = facts(run("status", project / "out").output)
    assert known["state"] == "finished"
    cells = len(sciplat.open_catalog(project / "stars").cells)
    assert known["cells"] == f"{cells} of {cells}"
    assert known["rows"].startswith(f"{stars().num_rows:,}, ")


def test_a_run_that_was_killed_is_finished_by_rerun(project, running):
    running.kill()
    running.wait()
    assert "running or killed" in run("status", project / "out").output
    (project / "go").touch()
    code = "import sciplat.cli.main as m; m.main(['rerun', 'out'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"out: version 1, {stars().num_rows} rows, finished\n"


def test_the_status_of_a_run_that_stopped(project):
    catalog = sciplat.open_catalog(project / "stars")
    for _ in range(2):
        with pytest.raises(StepError):
            catalog.map(fail_where_few, schema=SCHEMA).write(project / "out")
    shown = run("status", project / "out")
    assert shown.exit_code == 0
    assert facts(shown.output)["state"] == "stopped"
    assert shown.output.count("state") == 2
    assert "stopped: tests.cli.test_plan:fail_where_few on cell 1/" in shown.output
    assert "ValueError: too few [/] stars" in shown.output


def test_the_status_of_a_run_that_could_not_read_what_an_earlier_one_left(project):
    catalog = sciplat.open_catalog(project / "stars")
    plan = catalog.map(fail_where_few, schema=SCHEMA)
    with pytest.raises(StepError):
        plan.write(project / "out")
    for record in (project / "out" / ".staging").glob("*/done-*.json"):
        record.write_bytes(b"")
    with pytest.raises(sciplat.errors.StoreCorrupt):
        plan.write(project / "out")
    shown = run("status", project / "out")
    assert shown.exit_code == 0, shown.exception
    assert "is damaged" in shown.output


@pytest.mark.parametrize("url", ["nothing", "stars"])
def test_there_is_no_status_of_what_no_plan_writes(project, url):
    shown = run("status", project / url)
    assert shown.exit_code == 2
    assert shown.stderr.splitlines()[0] == f"error: no plan writes to {project / url}"
    assert "Traceback" not in shown.output


def test_rerun_says_whether_the_files_are_the_same(project):
    sciplat.open_catalog(project / "stars").select("mag").write(project / "out")
    shown = run("rerun", project / "out")
    assert shown.exit_code == 0
    same = f"{stars().num_rows} rows, the same files, bit for bit\n"
    assert shown.stdout == f"{project / 'out'}: version 2, {same}"
    assert run("rerun", project / "out", "--to", project / "new").stdout == f"{project / 'new'}: version 1, {same}"
    assert sciplat.open_catalog(project / "new").compute().equals(stars())
    other = sciplat.open_catalog(project / "stars").select("source_id").write(project / "new2")
    refused = run("rerun", project / "out", "--to", other.store.storage.url)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: a store stands already at ")


@pytest.mark.parametrize("command", [["rerun"], ["replay", "--cell", "1/16"]])
def test_what_no_plan_has_made_cannot_be_repeated(project, command, monkeypatch):
    monkeypatch.chdir(project)
    for url in ("stars", "nothing"):
        refused = run(*command, url)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("error: there is no record of a plan at ")
    assert not (project / "nothing").exists()
    assert not (project / "replay-1-16").exists()


def test_what_a_notebook_s_function_made_cannot_be_repeated(project):
    sciplat.open_catalog(project / "stars").map(lambda table: table, schema=SCHEMA).write(project / "out")
    for command in (["rerun", project / "out"], ["replay", project / "out", "--cell", "1/16"]):
        refused = run(*command)
        assert refused.exit_code == 2
        assert refused.stderr.splitlines()[0].endswith("<lambda> of the plan cannot be imported")


def test_replay_writes_a_folder_and_says_how_to_run_it(project, monkeypatch):
    monkeypatch.chdir(project)
    sciplat.open_catalog(project / "stars").select("mag").write("out")
    shown = run("replay", "out", "--cell", "1/16")
    folder = project / "replay-1-16"
    assert shown.exit_code == 0
    assert f"python {folder}/replay.py" in shown.stdout
    again = run("replay", "out", "--cell", "1/16")
    assert (again.exit_code, again.stderr.splitlines()[0]) == (2, f"error: {folder} exists already")
    assert run("replay", "out", "--cell", "1/16", "--output", "second").exit_code == 0
    assert (project / "second" / "replay.py").is_file()
    assert run("replay", "out").exit_code == 2  # --cell is required
    for cell in ("1/999", "nonsense", "0/0"):
        refused = run("replay", "out", "--cell", cell)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("error: ")


def test_calibrate_keeps_what_it_measures(tmp_path, monkeypatch):
    from sciplat.tasks import calibrate, quote

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibrate, "_MOMENT", 0.02)
    quote.rates.cache_clear()
    shown = run("calibrate")
    assert shown.exit_code == 0
    assert quote.is_calibrated()
    assert f"kept in {tmp_path}" in shown.stdout
    measured = quote.rates()
    assert f"pixel    {measured.pixel:.3g} s" in shown.stdout
    quote.rates.cache_clear()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    from sciplat.tasks import calibrate

    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "_MOMENT", 0.02)
    refused = run("calibrate")
    assert refused.exit_code in (1, 2)
    assert refused.stderr.startswith("error: ")

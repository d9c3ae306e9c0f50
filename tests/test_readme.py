"""What the README says is so: its Python runs, its commands exist, its tree and signatures are those of the code."""

import inspect
import json
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

import sciplat
from sciplat.cli.main import main
from sciplat.demo.run import run_demo
from sciplat.gateway.server.embedded import own_site
from sciplat.gateway.site.schema import load_site
from sciplat.kernels.flags import FLAGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


@contextmanager
def gateway(state):
    """Run a gateway of one's own; give what lets alice in, as the README names it."""
    program, site = Path(sys.executable).with_name("sciplat"), own_site(state)
    with subprocess.Popen(
        [program, "gateway", "start", "--config", site], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline().startswith("gateway at")
            create = [program, "token", "create", "--config", site, "--user", "alice", "laptop"]
            token = subprocess.run(create, capture_output=True, text=True, check=True).stdout.strip()
            yield {"SCIPLAT_GATEWAY": f"http://{load_site(site).address}", "SCIPLAT_TOKEN": token}
        finally:
            subprocess.run([program, "gateway", "stop", "--config", site], stdout=subprocess.DEVNULL, check=True)


def test_the_python_runs_where_the_demo_has_run_and_a_gateway_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_demo("demo-output", fields=4)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")))  # one block goes on where the other ends
    with gateway(tmp_path / "gateway") as login:
        for name, value in login.items():
            monkeypatch.setenv(name, value)
        # in a process of its own: the memory that it allows would count what other tests hold
        ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(sciplat.open_catalog("light_curves")) > 0
    assert len(sciplat.open_catalog("on_a_cluster")) > 0
    audit = [json.loads(line) for line in (tmp_path / "gateway" / "audit.jsonl").read_text().splitlines()]
    assert [line["user"] for line in audit if line["event"] == "cluster-created"] == ["alice", "alice"]


def test_the_site_file_is_one(tmp_path):
    (block,) = blocks("yaml")
    path = tmp_path / "site.yaml"
    path.write_text(block)
    site = load_site(path)
    assert (site.backend, list(site.profiles), list(site.quotas.groups)) == ("slurm", ["default", "large"], ["physics"])


def test_the_first_commands_are_in_the_makefile():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^    make (\w+)", README, re.MULTILINE) == ["demo", "test"]
    assert {"demo", "test", "lint", "bench"} <= set(targets)


@pytest.mark.parametrize("line", [line for block in blocks("console") for line in block.splitlines()])
def test_a_command_is_understood(line):
    words = shlex.split(line.removeprefix("$ "))
    assert words.pop(0) == "sciplat"
    command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    # a command keeps the names of its help option from the first context that it is given
    command.make_context(command.name, words, parent=click.Context(main, **main.context_settings))


def test_signatures_are_those_of_the_code():
    for line in blocks("text")[0].splitlines():
        name = line.partition("(")[0]
        thing = sciplat
        for part in name.split(".")[1:]:
            thing = getattr(thing, part)
        parameters = list(inspect.signature(thing).parameters.values())
        bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name != "self"]
        assert f"{name}{inspect.Signature(bare)}" == line


def test_every_public_method_has_a_signature_there():
    listed = {line.partition("(")[0] for line in blocks("text")[0].splitlines()}
    for owner in (sciplat.Catalog, sciplat.Images, sciplat.Cluster):
        methods = [name for name, _ in inspect.getmembers(owner, inspect.isfunction) if not name.startswith("_")]
        assert {f"sciplat.{owner.__name__}.{name}" for name in methods} <= listed


def test_the_tree_is_the_tree():
    shown = set(re.findall(r"^ *(\w+)/", blocks("text")[1], re.MULTILINE)) - {"sciplat"}
    packages = {path.parent.name for path in (ROOT / "sciplat").glob("*/__init__.py")}
    assert shown == packages | {"benchmarks", "deploy", "examples", "tests"}


def test_the_table_of_flags_is_that_of_the_kernels():
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", README, re.MULTILINE)
    assert [(int(bit), name, meaning) for bit, name, meaning in rows] == [*FLAGS]


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 120

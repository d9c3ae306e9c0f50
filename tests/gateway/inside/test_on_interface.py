"""A program is started with the address that its machine has on an interface."""

import subprocess
import sys

import psutil

START = [sys.executable, "-P", "-m", "sciplat.gateway.inside.on_interface"]


def test_the_program_gets_the_interface_s_address():
    loopback = next(
        name for name, found in psutil.net_if_addrs().items() if any(one.address == "127.0.0.1" for one in found)
    )
    program = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "--host", "{host}", "{host}:0", "host {other}"]
    found = subprocess.run([*START, loopback, *program], capture_output=True, text=True, check=True)
    assert found.stdout == "['--host', '127.0.0.1', '127.0.0.1:0', 'host {other}']\n"


def test_an_interface_that_the_machine_does_not_have_is_named():
    found = subprocess.run([*START, "no-such-one", sys.executable], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "has no interface no-such-one" in found.stderr
    assert "Traceback" not in found.stderr

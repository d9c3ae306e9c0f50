"""A real gateway of each backend, and programs that its users run: what the tests of clusters share."""

import http.client
import json
import os
import pwd
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.conftest import required

SHARED_ENVIRONMENT = Path(os.environ.get("SCIPLAT_DEV_PREFIX", "/opt/sciplat-dev")) / "env"
SERVICE_USER = "sciplat-gw"
BACKENDS = ("local", "local-multi", "slurm")
PROFILES = """
profiles:
  default: {cores: 1, memory: 1 GiB, max_memory: 64 TiB, max_cores: 4096, scheduler_memory: 512 MiB}
"""

# Runs one piece of code after another, as a notebook's kernel does; `answer` is what it tells.
KERNEL = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
names = {"__name__": "__main__"}
for line in sys.stdin:
    names["answer"], told = None, {}
    try:
        exec(json.loads(line), names)
        told["answer"] = names["answer"]
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(told), file=answers, flush=True)
"""


def check_backend(backend):
    """Skip, or fail under CI, where a backend cannot run."""
    missing = missing_for(backend)
    if missing and required({"local-multi": "users", "slurm": "slurm"}[backend]):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def missing_for(backend):
    """Return what a backend lacks here, or nothing."""
    return {"local": lambda: "", "local-multi": _no_users, "slurm": _no_slurm}[backend]()


def _no_users():
    if os.geteuid() != 0:
        return "several users: this needs root"
    try:
        pwd.getpwnam("alice"), pwd.getpwnam("bob")
    except KeyError as error:
        return f"several users: {error} (deploy/slurm/dev-cluster install)"
    if not (SHARED_ENVIRONMENT / "bin" / "sciplat").exists():
        return f"several users: no environment in {SHARED_ENVIRONMENT} (deploy/slurm/dev-cluster install)"
    return ""


def _no_slurm():
    if shutil.which("sinfo") is None:
        return "Slurm: not installed (deploy/slurm/dev-cluster install)"
    answer = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=20, check=False)
    return _no_users() or ("" if answer.returncode == 0 else f"Slurm: not running (dev-cluster start): {answer.stderr}")


class Notebook:
    """A user's process that keeps its names from one piece of code to the next."""

    def __init__(self, process, log):
        self.process, self.log = process, log

    def run(self, code, seconds=60.0):
        """Run code; return what it has put into `answer`, which is JSON."""
        told = self._tell(code, seconds)
        assert "error" not in told, f"{told['error']}\n{self.log()}"
        return told["answer"]

    def error(self, code, seconds=60.0):
        """Run code that fails; return the error's type and text."""
        told = self._tell(code, seconds)
        assert "error" in told, told
        return told["error"]

    def _tell(self, code, seconds):
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        return self.wait(seconds)

    def wait(self, seconds):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else ""
        assert line, f"no answer in {seconds} s\n{self.log()}"
        return json.loads(line)

    def kill(self):
        """End it as a crash does: nothing of what it holds is closed."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict


@dataclass
class RunningGateway:
    """A gateway with a site file and a state folder of its own.

    `with` starts it and ends all that it has started; `user` runs a program for one of its users.
    """

    backend: str
    more: str = ""  # further lines of the site file
    profiles: str = PROFILES
    heartbeat: str = "1 s"
    on_stop: str = "stop"
    folder: Path = field(default=None, init=False)
    process: subprocess.Popen = field(default=None, init=False)
    tokens: dict = field(default_factory=dict, init=False)
    notebooks: list = field(default_factory=list, init=False)

    def __post_init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix=f"sciplat-{self.backend}-"))
        self.folder.chmod(0o755)
        self.state = self.folder / "state"
        self.state.mkdir()
        port, api_port = free_ports(2)
        self.address, self.api_address = f"127.0.0.1:{port}", f"127.0.0.1:{api_port}"
        self.site = self.folder / "site.yaml"
        self.name = f"t{os.getpid()}-{port}"
        self.site.write_text(
            f"name: {self.name}\naddress: {self.address}\napi_address: {self.api_address}\nstate: {self.state}\n"
            f"backend: {self.backend}\nheartbeat: {self.heartbeat}\non_stop: {self.on_stop}\n"
            f"{self.profiles}\n{self.more}\n"
        )
        if self.backend == "slurm":
            shutil.chown(self.state, SERVICE_USER, SERVICE_USER)

    @property
    def url(self):
        return f"http://{self.address}"

    @property
    def program(self):
        """The command `sciplat` of the environment that gateway and users share."""
        where = Path(sys.prefix) if self.backend == "local" else SHARED_ENVIRONMENT
        return str(where / "bin" / "sciplat")

    def command(self, *arguments):
        """Return a command as whoever runs the gateway gives it."""
        clean = ["env", "-i", "PATH=/usr/bin:/bin", "HOME=/var/lib/sciplat-gw"]
        as_service = ["runuser", "-u", SERVICE_USER, "--", *clean] if self.backend == "slurm" else []
        return [*as_service, self.program, *arguments]

    def operate(self, *arguments):
        """Run a command as whoever runs the gateway, and return what it prints."""
        status, told = self.operator(*arguments)
        assert status == 0, told
        return told

    def operator(self, *arguments):
        """Run a command as whoever runs the gateway; return its status and what it prints."""
        command = self.command(*arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", check=False)
        return done.returncode, done.stdout + done.stderr

    def start(self):
        """Start the gateway and wait until it says that it is there."""
        self.process = subprocess.Popen(
            self.command("gateway", "start", "--config", str(self.site)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            start_new_session=True,
        )
        first = self.process.stdout.readline()
        assert first.startswith("gateway at"), first + self.process.stdout.read()

    def stop(self):
        """Stop it as an operator does; its clusters end with it unless the site keeps them."""
        self.operate("gateway", "stop", "--config", str(self.site))
        if self.process is not None:
            self.process.wait(60)
            self.process.stdout.close()

    def supervisor(self):
        return psutil.Process(int((self.state / "run" / "supervisor").read_text()))

    def server(self):
        return self._recorded("server")

    def proxy(self):
        return self._recorded("proxy")

    def _recorded(self, name):
        return psutil.Process(json.loads((self.state / "run" / f"{name}.json").read_text())["pid"])

    def token(self, user, *scopes):
        """Return a token of a user, made once for the same scopes."""
        key = (user, scopes)
        if key not in self.tokens:
            wanted = [part for scope in scopes for part in ("--scope", scope)]
            made = self.operate("token", "create", "test", "--config", str(self.site), "--user", user, *wanted)
            self.tokens[key] = made.strip()
        return self.tokens[key]

    def environment(self, user, token=None):
        """Return the environment of a user's programs."""
        entry = pwd.getpwnam(user) if self.backend != "local" else pwd.getpwuid(os.getuid())
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": entry.pw_dir,
            "USER": entry.pw_name,
            "LANG": "C.UTF-8",
            "SCIPLAT_GATEWAY": self.url,
            "SCIPLAT_TOKEN": token or self.token(user),
        }

    def start_python(self, user, code, *, token=None):
        """Start a user's Python program in the shared environment."""
        python = str(Path(self.program).parent / "python")
        return self._start(user, [python, "-W", "ignore", "-c", code], token)

    def python(self, user, code, *, token=None, timeout=120):
        """Run a user's Python program and return the JSON value that it prints last."""
        process = self.start_python(user, code, token=token)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"timed out\n{out}\n{err}\n{self.logs()}") from None
        assert process.returncode == 0, f"{out}\n{err}\n{self.logs()}"
        return json.loads(out.splitlines()[-1])

    def sciplat(self, user, *arguments, token=None, timeout=60):
        """Run the command `sciplat` as a user; return its status and what it prints."""
        process = self._start(user, [self.program, *arguments], token)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out + err

    def notebook(self, user):
        """Return a new notebook of a user; it ends with the gateway."""
        log = self.folder / f"notebook-{len(self.notebooks)}.log"
        python = str(Path(self.program).parent / "python")
        with log.open("w") as errors:
            process = self._start(
                user, [python, "-W", "ignore", "-c", KERNEL], None, stdin=subprocess.PIPE, stderr=errors
            )
        self.notebooks.append(Notebook(process, lambda: log.read_text()[-5000:] + self.logs()))
        return self.notebooks[-1]

    def _start(self, user, command, token, **streams):
        entry = pwd.getpwnam(user) if self.backend != "local" else None
        who = {} if entry is None else {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups_of(entry)}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.Popen(command, env=self.environment(user, token), cwd="/", text=True, **streams, **who)

    def ask(self, method, path, user=None, *, body=None, token=None, headers=None):
        """Return an answer of the gateway: status, body and headers."""
        token = token or (user and self.token(user))
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            reply = connection.getresponse()
            return Answer(reply.status, reply.read(), dict(reply.getheaders()))
        finally:
            connection.close()

    def cluster(self, name, user="alice"):
        """Return what the gateway says of a user's cluster."""
        answer = self.ask("GET", f"/api/sciplat/clusters/{name}", user)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def clusters(self, user="alice"):
        """Return the clusters of a user that have not ended."""
        return json.loads(self.ask("GET", "/api/sciplat/clusters", user).body)["clusters"]

    def logs(self):
        """Return the end of the server's log."""
        path = self.state / "logs" / "server.log"
        return "\n".join(path.read_text().splitlines()[-40:]) if path.exists() else ""

    def processes(self, cluster=None):
        """Return the processes of all its clusters, or of one, on this machine."""
        found = []
        for process in psutil.process_iter():
            try:
                told = process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
            except psutil.Error:
                continue
            named = {None, told.get("DASK_GATEWAY_CLUSTER_NAME")}
            if told.get("SCIPLAT_SITE") == self.name and cluster in named:
                found.append(process)
        return found

    def running(self):
        """Return the names of the clusters that have processes or jobs."""
        found = set()
        for process in self.processes():
            with suppress(psutil.Error):
                found.add(process.environ()["DASK_GATEWAY_CLUSTER_NAME"])
        return found | {tag.split(":")[2] for _, tag in self._tags()}

    def jobs(self, cluster=""):
        """Return the numbers of the jobs in Slurm's queue that are its clusters', or one cluster's."""
        return [job for job, tag in self._tags() if tag.startswith(f"sciplat:{self.name}:{cluster}")]

    def _tags(self):
        if self.backend != "slurm":
            return []
        command = ["squeue", "--all", "--noheader", "--format=%i %k"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return [line.split() for line in told.splitlines() if f" sciplat:{self.name}:" in line]

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            for notebook in self.notebooks:
                notebook.kill()
            self.stop()
        finally:
            if jobs := self.jobs():
                subprocess.run(["scancel", *jobs], check=True, timeout=20)
            for process in self.processes():
                process.kill()
            shutil.rmtree(self.folder, ignore_errors=True)


def groups_of(entry):
    return os.getgrouplist(entry.pw_name, entry.pw_gid)


def free_ports(count):
    """Return ports on loopback at which nobody listens."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def until(condition, seconds=30.0, what=""):
    """Wait until a condition holds; fail after some seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what or condition
        time.sleep(0.1)
    return found

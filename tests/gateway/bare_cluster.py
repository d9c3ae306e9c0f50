"""Schedulers and workers as the gateway starts them, and the side of the gateway that hears their heartbeats."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dask_gateway_server.tls import new_keypair
from distributed import Client, Security

from sciplat.gateway.inside.guard import SCHEDULER_ENVIRONMENT, WORKER_ENVIRONMENT

NAME = "c" * 32
TOKEN = "0123456789abcdef" * 2
HOST = "127.0.0.1"


def until(condition, seconds=15.0):
    """Return what is true at last."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


class Gateway:
    """Hears what schedulers say over HTTP."""

    def __init__(self):
        self.heartbeats, self.stopped = [], []
        self.denial = None  # the status with which it knows no cluster
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(outer.heartbeats, f"/api/v1/clusters/{NAME}/heartbeat", message)

            def do_DELETE(self):
                self._answer(outer.stopped, f"/api/v1/clusters/{NAME}", time.time())

            def _answer(self, heard, path, what):
                known = self.path == path and self.headers["Authorization"] == f"token {TOKEN}" and not outer.denial
                if known:
                    heard.append(what)
                self.send_response(200 if known else outer.denial or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}/api"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def last(self):
        """Return the latest heartbeat."""
        return self.heartbeats[-1]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class BareCluster:
    """A scheduler in a process of its own, and workers in theirs."""

    def __init__(self, folder, *options, **environment):
        self.folder, self.gateway, self.processes = Path(folder), Gateway(), {}
        certificate, key = new_keypair(NAME)
        for name, content in (("dask.crt", certificate), ("dask.pem", key)):
            (self.folder / name).write_bytes(content)
        paths = {kind: str(self.folder / name) for kind, name in (("CERT", "dask.crt"), ("KEY", "dask.pem"))}
        self.security = Security(
            tls_ca_file=paths["CERT"],
            tls_client_cert=paths["CERT"],
            tls_client_key=paths["KEY"],
            require_encryption=True,
        )
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "DASK_GATEWAY_CLUSTER_NAME": NAME,
            "DASK_GATEWAY_API_TOKEN": TOKEN,
            "DASK_GATEWAY_API_URL": self.gateway.url,
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": paths["CERT"],
            **{
                f"DASK_DISTRIBUTED__COMM__TLS__{role}__{kind}": path
                for role in ("SCHEDULER", "WORKER")
                for kind, path in paths.items()
            },
            "SCIPLAT_KERNEL_CACHE": os.devnull,  # no folder, so that the warm-up does not compile
            "NUMBA_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),  # tasks are functions of the tests
            **environment,
        }
        arguments = ["--protocol", "tls", "--host", HOST, "--port", "0", "--dashboard-address", f"{HOST}:0"]
        arguments += [
            "--no-dashboard",
            "--preload",
            "sciplat.gateway.inside.scheduler_preload",
            "--dg-api-address",
            f"{HOST}:0",
        ]
        arguments += ["--dg-heartbeat-period", "0.5", "--dg-adaptive-period", "0.3", *options]
        self._start("scheduler", arguments, SCHEDULER_ENVIRONMENT)

    def start_worker(self, name, *, ends=None, **environment):
        """Start a worker, perhaps of a job that ends at a time."""
        arguments = [self.gateway.last()["scheduler_address"], "--host", HOST, "--no-dashboard", "--name", name]
        arguments += ["--nthreads", "1", "--memory-limit", "1GiB", "--preload", "sciplat.gateway.inside.worker_preload"]
        if ends is not None:
            environment["SCIPLAT_WORKER_ENDS"] = str(ends)
        self._start(name, arguments, WORKER_ENVIRONMENT | environment)

    def _start(self, name, arguments, environment):
        kind = "scheduler" if name == "scheduler" else "worker"
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", kind, *arguments],
                env=self.environment | environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log(self, name):
        """Return what a process has said."""
        return (self.folder / f"{name}.log").read_text()

    def ask(self, **message):
        """Say to the scheduler how many workers it has, as the gateway does."""
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        url = f"{self.gateway.last()['api_address']}/api/comm"
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(message).encode(), headers), timeout=5).close()

    def client(self):
        """Return a client."""
        address = self.gateway.last()["scheduler_address"]
        return Client(address, security=self.security, set_as_default=False)

    def close(self):
        """End all processes."""
        with ExitStack() as stack:
            stack.callback(self.gateway.close)
            for process in self.processes.values():
                stack.callback(process.wait, timeout=10)
                process.kill()  # a worker ends with its nanny

    def __enter__(self):
        try:
            until(lambda: self.gateway.heartbeats)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

"""A real JupyterHub of deploy/jupyterhub on free ports, and the notebooks of its users."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.cluster.running_gateway import SHARED_ENVIRONMENT, free_ports
from tests.conftest import required

DEPLOY = Path(__file__).parents[2] / "deploy" / "jupyterhub"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check_hub():
    """Skip, or fail under CI, where no hub can run."""
    missing = _what_is_missing()
    if missing and required("hub"):
        pytest.fail(f"JupyterHub: {missing}")
    if missing:
        pytest.skip(f"JupyterHub: {missing}")


def _what_is_missing():
    programs = SHARED_ENVIRONMENT / "bin" / "jupyterhub", SHARED_ENVIRONMENT.parent / "npm" / "bin"
    if os.geteuid() != 0 or not all(one.exists() for one in programs):
        return "root, and deploy/jupyterhub/dev-hub install"
    if socket.gethostbyname(socket.gethostname()) != "127.0.0.1":  # beyond which tests do not listen
        return f"127.0.0.1 {socket.gethostname()} in /etc/hosts"
    return ""


class RunningHub:
    """A hub with a state folder of its own; `with` starts and stops it.

    Parameters
    ----------
    gateway : str
        Where it finds the gateway.
    variables : dict
        Further environment of the hub and its proxy.
    """

    def __init__(self, gateway, **variables):
        self.folder = Path(tempfile.mkdtemp(prefix="sciplat-hub-"))
        self.folder.chmod(0o755)
        self.state = self.folder / "state"
        self.port = _ports_in_a_row(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.api_url = f"http://127.0.0.1:{self.port + 1}/hub/api"
        self.service = f"{self.url}/services/sciplat-gateway"
        self.environment = {
            "PATH": os.environ["PATH"],
            "SCIPLAT_DEV_PREFIX": str(SHARED_ENVIRONMENT.parent),
            "SCIPLAT_DEV_HUB_STATE": str(self.state),
            "SCIPLAT_DEV_HUB_PORT": str(self.port),
            "SCIPLAT_HUB_GATEWAY": gateway,
            **variables,
        }

    def __enter__(self):
        try:
            self._dev_hub("start")
        except BaseException:
            self.__exit__()
            raise
        self._admin = (self.state / "admin.token").read_text()
        return self

    def __exit__(self, *_):
        try:
            self._dev_hub("stop")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _dev_hub(self, what):
        with (self.folder / "dev-hub.log").open("w+") as log:  # not a pipe: the hub would hold it open
            done = subprocess.run(
                [DEPLOY / "dev-hub", what], env=self.environment, stdout=log, stderr=log, timeout=90, check=False
            )
            log.seek(0)
            assert done.returncode == 0, log.read()

    def process(self):
        """Return the hub's own process; its proxy and the notebook servers are others."""
        return psutil.Process(int((self.state / "private" / "hub.pid").read_text()))

    def log(self):
        """Return what hub and notebook servers have written."""
        return (self.state / "private" / "hub.log").read_text()

    def api(self, method, path, body=None):
        """Ask the hub as its administrator; return the JSON of its answer."""
        status, found = ask(method, f"{self.url}/hub/api{path}", f"token {self._admin}", body)
        assert status < 400, (path, status, found)
        return found

    def token(self, user, **more):
        """Return a new token of a user, and its number."""
        made = self.api("POST", f"/users/{user}/tokens", {"note": "test", **more})
        return made["token"], made["id"]

    def start_server(self, user):
        """Let a user's notebook server start."""
        self.api("POST", f"/users/{user}/server")

    def kernel(self, user):
        """Return a kernel of a user's notebook server, as soon as that is there."""
        end = time.monotonic() + 60
        while not self.api("GET", f"/users/{user}")["servers"].get("", {}).get("ready"):
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)
        return Kernel(f"{self.url}/user/{user}", self._admin)


class Kernel:
    """A kernel of a user's notebook server, spoken to as a browser does.

    Parameters
    ----------
    url : str
        Of the server.
    token : str
        One that opens it.
    """

    def __init__(self, url, token):
        self._runner = asyncio.Runner()
        self._runner.run(self._open(url, {"Authorization": f"token {token}"}))

    async def _open(self, url, headers):
        self._session = aiohttp.ClientSession(headers=headers)
        async with self._session.post(f"{url}/api/kernels", json={}) as answer:
            kernel = (await answer.json())["id"]
        self._socket = await self._session.ws_connect(f"{url}/api/kernels/{kernel}/channels", max_msg_size=0)

    def run(self, code, timeout=60):
        """Run code and return the JSON value that it prints last."""
        printed = self._runner.run(asyncio.wait_for(self._execute(code), timeout))
        return json.loads(printed.splitlines()[-1])

    async def _execute(self, code):
        number = uuid.uuid4().hex
        header = {"msg_id": number, "msg_type": "execute_request", "session": number, "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        await self._socket.send_json(
            {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        )
        printed, error = "", None
        async for frame in self._socket:
            message = json.loads(frame.data)
            if message["parent_header"].get("msg_id") != number or message["channel"] != "iopub":
                continue
            told, content = message["msg_type"], message["content"]
            if told == "stream":
                printed += content["text"]
            elif told == "error":
                error = "\n".join(content["traceback"])
            elif told == "status" and content["execution_state"] == "idle":
                assert error is None, f"{printed}\n{error}"
                return printed
        raise AssertionError(f"the kernel is gone\n{printed}")

    def close(self):
        """Leave the kernel to its server."""
        with suppress(aiohttp.ClientError):
            self._runner.run(self._session.close())
        self._runner.close()


def ask(method, url, authorization=None, body=None):
    """Return status and content of an answer; the content of JSON as what it means."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": authorization} if authorization else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with _DIRECT.open(urllib.request.Request(url, data, headers, method=method), timeout=20) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    try:
        return status, json.loads(text) if text else None
    except ValueError:
        return status, text.decode()


def _ports_in_a_row(count):
    """Return the first of some ports in a row that were free just now."""
    while True:
        (first,) = free_ports(1)
        if all(_is_free(first + step) for step in range(count)):
            return first


def _is_free(port):
    with suppress(OSError):
        socket.create_server(("127.0.0.1", port)).close()
        return True
    return False

"""A user's way to a gateway: where the token goes, and what answers that are none come to."""

import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sciplat.errors import GatewayAway, GatewayError, QuotaExceeded, TokenRefused
from sciplat.gateway.client import connection
from sciplat.gateway.client.connection import Connection
from sciplat.gateway.client.login import Login

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        server, length = self.server, int(self.headers.get("Content-Length") or 0)
        server.requests.append((self.command, self.path, self.headers, self.rfile.read(length)))
        status, headers, body = server.reply
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for part in body if not isinstance(body, bytes) else [body]:
                self.wfile.write(part)
                self.wfile.flush()
        except OSError:  # the client has heard enough
            pass

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Answers every request with the same, and remembers them."""

    def __init__(self, host="127.0.0.1", context=None):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.requests, self.reply = [], (200, {}, b"{}")
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def handle_error(self, *_):
        pass

    def connect(self, host=None, scheme="http"):
        return Connection(Login(f"{scheme}://{host or '127.0.0.1'}:{self.server_port}/prefix", "secret"))

    def close(self):
        self.shutdown()
        self.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    with closing(Server()) as server:
        yield server


def test_requests_carry_the_token_and_only_what_is_asked(server):
    way, server.reply = server.connect(), (200, {}, b'{"a": [1]}')
    assert way.get("/x", a=None, b="", c=0, d="q&r") == {"a": [1]}
    way.post("/x", count=3)
    way.delete("/x")
    way.cluster("../tokens", "why")
    seen = [(method, path, body) for method, path, _, body in server.requests]
    assert seen == [
        ("GET", "/prefix/x?c=0&d=q%26r", b""),
        ("POST", "/prefix/x", b'{"count": 3}'),
        ("DELETE", "/prefix/x", b""),
        ("GET", "/prefix/api/sciplat/clusters/..%2Ftokens/why", b""),
    ]
    assert {headers["Authorization"] for _, _, headers, _ in server.requests} == {"Bearer secret"}


def test_an_empty_answer_is_an_empty_one(server):
    for server.reply in ((204, {}, b""), (200, {}, b"\n")):
        assert server.connect().delete("/x") == {}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_with_the_token(server, status):
    with closing(Server()) as other:
        server.reply = (status, {"Location": f"http://127.0.0.1:{other.server_port}/"}, b"")
        for ask in (server.connect().get, server.connect().post):
            with pytest.raises(GatewayError, match="sends us elsewhere"):
                ask("/x")
        assert other.requests == []


@pytest.mark.parametrize(
    "body", [b"<html>hub</html>", b"[1]", b"7", b"null", b'"x"', b'{"a": ', b"\xff\xfe", b"[" * 100_000, b"\x00"]
)
def test_an_answer_that_is_no_gateway_s_is_told_so(server, body):
    server.reply = (200, {}, body)
    with pytest.raises(GatewayError, match="not as a gateway does") as caught:
        server.connect().get("/x")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, b'{"error": "This token is revoked"}', TokenRefused, "let you in: This token is revoked[\\s\\S]*create"),
        (403, b'{"error": "alice has no Unix account"}', TokenRefused, "alice has no Unix account$"),
        (404, b'{"error": "no such cluster"}', GatewayError, "^no such cluster$"),
        (409, b'{"error": "quota: workers: 4 of 4"}', QuotaExceeded, "^workers: 4 of 4"),
        (422, b'{"error": "no such profile"}', GatewayError, "^no such profile$"),
        (418, b'{"error": "tea"}', GatewayError, "^tea\n  found  status 418"),
        (500, b"<html>", GatewayError, "has failed: Internal Server Error"),
        (502, b'["error"]', GatewayAway, "is not there at present"),
        (404, b"[" * 100_000, GatewayError, "Not Found"),
        (400, b"\xff", GatewayError, "Bad Request"),
    ],
)
def test_refusals_are_told_in_the_gateway_s_words(server, status, body, kind, words):
    server.reply = (status, {}, body)
    with pytest.raises(kind, match=words):
        server.connect().get("/x")


def test_an_answer_without_end_or_too_slow_is_given_up(server, monkeypatch):
    monkeypatch.setattr(connection, "_LARGEST", 100_000)
    server.reply = (200, {}, [b"x" * 10_000] * 20)
    with pytest.raises(GatewayError, match="too large"):
        server.connect().get("/x")
    server.reply = (500, {}, [b"x" * 10_000] * 20)
    with pytest.raises(GatewayError, match="Internal Server Error"):
        server.connect().get("/x")
    monkeypatch.setattr(connection, "_ANSWER", 0.2)
    server.reply = (200, {}, drip())
    with pytest.raises(GatewayError, match=r"does not answer[\s\S]*too long"):
        server.connect().get("/x")


def drip():
    while True:
        time.sleep(0.02)
        yield b"x"


def test_a_server_that_accepts_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(connection, "_ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(GatewayError, match=r"does not answer[\s\S]*timed out"):
            Connection(Login(f"http://127.0.0.1:{port}", "secret")).get("/x")


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b"\x00" * 70_000]
)
def test_who_speaks_no_http_or_hangs_up_is_no_gateway(said):
    def speak(listener):
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak, args=(listener,))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(GatewayError) as caught:
            Connection(Login(address, "secret")).get("/x")
        thread.join()
    assert address in str(caught.value)
    assert "secret" not in str(caught.value)


def test_nobody_there_is_told_so():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for host in (f"127.0.0.1:{port}", "no-such-host.invalid", f"{'a' * 64}.invalid"):
        with pytest.raises(GatewayError, match=r"does not answer[\s\S]*is it running there") as caught:
            Connection(Login(f"http://{host}", "secret")).get("/x")
        assert caught.value.found


def test_this_machine_is_spoken_to_directly_and_others_through_the_named_proxy(server, monkeypatch):
    with closing(Server()) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        for host in ("127.0.0.1", "localhost"):
            server.connect(host).get("/x")
        assert proxy.requests == []
        assert len(server.requests) == 2
        assert Connection(Login("http://gateway.invalid", "secret")).get("/x") == {}
        assert [path for _, path, _, _ in proxy.requests] == ["http://gateway.invalid/x"]


def test_ipv6_addresses_are_spoken_to(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    try:
        server = Server("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with closing(server):
        assert server.connect("[::1]").get("/x") == {}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """An authority of one's own, and a server's certificate for 127.0.0.1 by it."""
    folder, now = tmp_path_factory.mktemp("tls"), dt.datetime.now(dt.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "server")}
    names = {name: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in keys}
    for name, key in keys.items():
        made = x509.CertificateBuilder().subject_name(names[name]).issuer_name(names["authority"])
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(now).not_valid_after(now + dt.timedelta(hours=1))
        made = made.add_extension(x509.BasicConstraints(ca=name == "authority", path_length=None), critical=True)
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = made.add_extension(alternative, critical=False).sign(keys["authority"], hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "server.key").write_bytes(keys["server"].private_bytes(serialization.Encoding.PEM, *private))
    return folder


def test_tls_is_checked_and_an_authority_of_one_s_own_can_be_named(authority, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    with closing(Server(context=context)) as server:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(GatewayError, match=r"CERTIFICATE_VERIFY_FAILED[\s\S]*SSL_CERT_FILE"):
            server.connect(scheme="https").get("/x")
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "authority.pem"))
        server.reply = (200, {}, json.dumps({"well": True}).encode())
        assert server.connect(scheme="https").get("/x") == {"well": True}
        with pytest.raises(GatewayError, match=r"doesn't match|not valid for|mismatch"):
            server.connect("localhost", scheme="https").get("/x")

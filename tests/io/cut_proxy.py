"""A network that loses answers: a proxy that passes requests on, and closes some connections instead of answering."""

import random
import socket
import threading
from contextlib import suppress


class CuttingProxy:
    """A context in which a port of this machine leads to a server, and a share of the answers is lost.

    Parameters
    ----------
    server : tuple of (str, int)
    share : float
    seed : int
    """

    def __init__(self, server, share, seed):
        self._server, self._share, self._random = server, share, random.Random(seed)
        self._lock, self.answers, self.cut = threading.Lock(), 0, 0

    def __enter__(self):
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._listening.close()

    def _accept(self):
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        """Pass on what comes from either side; the first bytes from the server after some to it begin an answer."""
        with suppress(OSError), client, socket.create_connection(self._server) as server:
            asked = threading.Event()
            threading.Thread(target=_forward, args=(client, server, asked), daemon=True).start()
            while data := server.recv(1 << 16):
                if asked.is_set():
                    asked.clear()
                    if self._loses():
                        break
                client.sendall(data)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _loses(self):
        with self._lock:
            self.answers += 1
            lost = self._random.random() < self._share
            self.cut += lost
            return lost


def _forward(client, server, asked):
    with suppress(OSError):
        while data := client.recv(1 << 16):
            asked.set()
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)

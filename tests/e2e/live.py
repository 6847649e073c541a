"""Live connections to a service through the gateway, by the stock `websockets` client."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from tests.bench.speech import RATE, Samples
from tests.e2e.gateway import CALL_SECONDS, Gateway

_PAUSE_SECONDS = 2.0  # between a talker's sentences
_PACKET = RATE // 5  # samples


@contextlib.contextmanager
def connected(gateway: Gateway) -> Iterator[ClientConnection]:
    """A connection to `/ws`. The URL names the service, the socket leads to the gateway."""
    address = urlsplit(gateway.url)
    raw = socket.create_connection((address.hostname, address.port or 80), CALL_SECONDS)
    with connect(f"ws://{gateway.host}/ws", sock=raw, open_timeout=CALL_SECONDS) as found:
        found.send(json.dumps({"config": {"sample_rate": RATE, "wait_null_answers": False, "language": "en"}}))
        yield found


def say(connection: ClientConnection, speech: Samples) -> None:
    """Sends a sentence and the pause that ends it."""
    samples = np.concatenate([speech, np.zeros(RATE, np.float32)])
    for start in range(0, len(samples), _PACKET):
        connection.send((samples[start : start + _PACKET] * 32767).astype("<i2").tobytes())


def heard(connection: ClientConnection) -> dict[str, Any]:
    """The next answer."""
    answer: dict[str, Any] = json.loads(connection.recv(CALL_SECONDS))
    return answer


class Talker:
    """Says a sentence over and over, for as long as the block lasts; `texts` is what came back.

    It stays on one connection until the service asks it to come again (1012), which it does before the cluster's limit.
    """

    def __init__(self, gateway: Gateway, speech: Samples):
        self._gateway = gateway
        self._speech = speech
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.texts: list[str] = []
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._talk()
                except ConnectionClosed as closed:
                    if closed.rcvd is None or closed.rcvd.code != CloseCode.SERVICE_RESTART:
                        raise
        except Exception as error:  # noqa: BLE001  # whatever it was, the test's own thread tells it
            self.failure = error

    def _talk(self) -> None:
        with connected(self._gateway) as connection:
            while not self._stop.is_set():
                say(connection, self._speech)
                self.texts.append(heard(connection)["data"]["text"])
                self._stop.wait(_PAUSE_SECONDS)
            connection.send('{"eof" : 1}')
            assert heard(connection)["last_message"]

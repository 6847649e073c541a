#!/usr/bin/env python3
"""Live captions in the terminal, from a WAV file or raw samples on standard input; wants `pip install websockets`.

    python examples/ws_client.py --url ws://127.0.0.1:8000/vosk recording.wav
    arecord -q -f S16_LE -r 16000 -c 1 -t raw | python examples/ws_client.py --url ws://127.0.0.1:8000/vosk -

When the server asks to come again (close code 1012), or the connection breaks, it connects again and sends what was not yet
final, so that no word is lost.
"""

import argparse
import asyncio
import json
import sys
import wave
from collections.abc import AsyncIterator
from typing import Any

import websockets

PACKET_SECONDS = 0.2
MOST_TRIES = 10
TAIL_SECONDS = 0.1  # a word sounds on after the end that recognisers give it
CUT_SECONDS = 0.5  # a word this close to the end of a connection may have been cut off
KEPT_SECONDS = 60.0  # of silence; speech is final after 15 s at the latest


class Captions:
    """What has been said: final lines, and below them what is still being said."""

    def __init__(self, out: Any = sys.stdout):
        self._out = out
        self._live = out.isatty()

    def show(self, answer: dict[str, Any]) -> None:
        """Shows one answer of the server."""
        if "partial" in answer:
            if self._live:
                self._out.write(f"\r\033[K{answer['partial']}")
        elif answer.get("text"):
            self._out.write(("\r\033[K" if self._live else "") + answer["text"] + "\n")
        self._out.flush()


class Client:
    """Sends samples, and keeps those that no final answer has covered."""

    def __init__(self, url: str, rate: int, captions: Captions, headers: dict[str, str]):
        self._url = url
        self._rate = rate
        self._captions = captions
        self._headers = headers
        self._kept = bytearray()  # from the end of the last final answer on
        self._kept_from = 0.0  # seconds on the connection's clock, which starts with what is sent first
        self._sent = 0.0  # seconds on the same clock
        self._final: dict[str, Any] | None = None  # the last final answer, until it is known what came after it
        self._tries = 0  # without an answer in between

    async def run(self, packets: AsyncIterator[bytes]) -> None:
        """Sends everything, over as many connections as it takes. Raises ConnectionError when the server stays away."""
        ended = False
        while not ended:
            try:
                async with websockets.connect(self._url, additional_headers=self._headers, max_size=None) as socket:
                    await socket.send(json.dumps({"config": {"sample_rate": self._rate, "words": True}}))
                    ended = await self._converse(socket, packets)
            except (OSError, websockets.WebSocketException) as error:
                if isinstance(error, websockets.InvalidStatus) and error.response.status_code < 500:
                    raise
                self._tries += 1
                if self._tries == MOST_TRIES:
                    raise ConnectionError(f"no answer after {self._tries} tries: {error}") from None
                await asyncio.sleep(min(5.0, 0.2 * 2**self._tries))

    async def _converse(self, socket: Any, packets: AsyncIterator[bytes]) -> bool:
        """Talks until everything is said, True, or the server asks to come again, False."""
        again, self._kept_from, self._sent = bytes(self._kept), 0.0, 0.0
        step = 2 * round(self._rate * PACKET_SECONDS)
        for start in range(0, len(again), step):
            if not await self._ask(socket, again[start : start + step]):
                return False
        async for packet in packets:
            self._kept += packet
            if not await self._ask(socket, packet):
                return False
        ended = await self._ask(socket, '{"eof" : 1}')
        self._settle()
        return ended

    async def _ask(self, socket: Any, message: bytes | str) -> bool:
        """One message and its answer; False when the server closes to be called again."""
        try:
            await socket.send(message)
            answer = json.loads(await socket.recv())
            self._tries = 0
        except websockets.ConnectionClosed as closed:
            self._settle(cut=True)
            if closed.rcvd is not None and closed.rcvd.code == 1012:
                return False
            raise
        if "error" in answer:
            sys.exit(f"the server refuses: {answer['error']}")
        self._settle()
        if isinstance(message, bytes):
            self._sent += len(message) / 2 / self._rate
        if answer.get("result"):
            self._final = answer
            return True
        self._captions.show(answer)
        if not answer.get("partial") and len(self._kept) > 2 * self._rate * KEPT_SECONDS:
            self._drop(KEPT_SECONDS / 2)
        return True

    def _settle(self, *, cut: bool = False) -> None:
        """Shows the last final answer and drops its samples. A word that the end of the connection `cut` is left to the next."""
        if self._final is None:
            return
        words, self._final = self._final["result"], None
        end = words[-1]["end"] + TAIL_SECONDS
        if cut and words[-1]["end"] > self._sent - CUT_SECONDS:
            *words, last = words
            end = ((words[-1]["end"] if words else self._kept_from) + last["start"]) / 2
        self._captions.show({"text": " ".join(word["word"] for word in words)})
        self._drop(end - self._kept_from)

    def _drop(self, seconds: float) -> None:
        size = min(len(self._kept), 2 * round(max(0.0, seconds) * self._rate))
        del self._kept[:size]
        self._kept_from += size / 2 / self._rate


def packets_of(source: Any, rate: int, *, live: bool) -> AsyncIterator[bytes]:
    """What `source` gives, as it comes, in packets of whole samples."""

    async def read() -> AsyncIterator[bytes]:
        size = 2 * round(rate * PACKET_SECONDS)
        while data := await asyncio.to_thread(source, size):
            yield data
            if live:
                await asyncio.sleep(PACKET_SECONDS)

    return read()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:8000/vosk", help="the service's vosk route")
    parser.add_argument("--rate", type=int, default=16_000, help="samples a second of raw input")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--live", action="store_true", help="send a file as slowly as it was spoken")
    parser.add_argument("source", help="a WAV file, 16 bits and mono, or - for raw 16-bit samples on standard input")
    options = parser.parse_args()
    headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    if options.source == "-":
        rate, read = options.rate, sys.stdin.buffer.read
    else:
        file = wave.open(options.source)  # noqa: SIM115  # it is read until the process ends
        if (file.getsampwidth(), file.getnchannels()) != (2, 1):
            sys.exit("the file must have 16 bits and one channel: sox IN -b 16 -c 1 OUT.wav makes one")
        rate = file.getframerate()

        def read(size: int) -> bytes:
            return file.readframes(size // 2)

    client = Client(options.url, rate, Captions(), headers)
    try:
        asyncio.run(client.run(packets_of(read, rate, live=options.live)))
    except (OSError, websockets.WebSocketException) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

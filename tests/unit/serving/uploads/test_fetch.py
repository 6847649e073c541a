"""Recordings behind links, over real sockets: what is fetched, and everything that must not be."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serving.errors import DeadlineExceeded, InvalidInput, ServingError, TooLarge, Unprocessable
from serving.uploads import fetch as fetching
from serving.uploads.fetch import AllowList, FetchLimits, fetch, is_public
from tests.pods import wait_for
from tests.unit.audio.limits import fetch_limits
from tests.unit.serving.uploads.spooling import content, named, spooled

LOOPBACK = fetch_limits(allow=AllowList.parse("127.0.0.1"))
RECORDING = bytes(range(256)) * 100

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server on 127.0.0.1 that answers each path as a test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.pages: dict[str, Handler] = {}
        self.requests: list[str] = []

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def page(self, path: str, head: str, body: bytes = b"") -> None:
        """Answers with just these bytes, be they right or not, and closes."""

        async def answer(_request: str, writer: asyncio.StreamWriter) -> None:
            writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)

        self.pages[path] = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            await self.pages[request.split()[1]](request, writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def running(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    site.page("/recording", f"HTTP/1.1 200 OK\nContent-Length: {len(RECORDING)}", RECORDING)
    async with server:
        yield site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as found:
        yield found


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where recordings are spooled; a test that fetches one closes it, and nothing else may remain."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert named(folder) == []
    assert spooled(folder) == []


async def fetched(url: str, limits: FetchLimits = LOOPBACK) -> bytes:
    with await fetch(url, limits) as recording:
        return content(recording)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """This test's own names: their addresses, a list for each time they are asked for (the last stays; none: unknown)."""
    table: dict[str, list[list[str]]] = {}
    resolve = socket.getaddrinfo

    def answer(host: str, port: int, *args: object, **options: object) -> object:
        answers = table.get(host)
        if answers is None:
            return resolve(host, port, *args, **options)  # type: ignore[arg-type]  # passed through
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info for address in addresses for info in resolve(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return table


async def test_a_recording_is_fetched_as_it_is(site: Site) -> None:
    assert await fetched(site.url("/recording")) == RECORDING
    assert "accept-encoding: identity" in site.requests[0].lower()


async def test_chunked_answers_and_redirects_are_followed(site: Site) -> None:
    site.page("/a", "HTTP/1.1 302 Found\nLocation: b\nContent-Length: 4", b"body")
    site.page("/b", f"HTTP/1.1 308 Permanent Redirect\nLocation: {site.url('/c?x=%20y#part')}\nContent-Length: 0")
    site.page("/c?x=%20y", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert await fetched(site.url("/a")) == b"abcde"
    assert len(site.requests) == 3


@pytest.mark.parametrize(
    "url",
    [
        "", "recording.wav", "/etc/passwd", "file:///etc/passwd", "ftp://example.org/a", "gopher://127.0.0.1/",
        "data:audio/wav;base64,UklGRg==", "http://", "http:///a", "https://?a", "http://[::1", "http://host:port/",
        "http://host:70000/", "http://exa mple.org/", "http://user@127.0.0.1/", "http://user:password@example.org/",
        "http://" + "a" * 8000, "http://example.org/\0", "http://xn--/",
    ],
)  # fmt: skip
async def test_what_is_no_plain_http_link_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await fetch(url, LOOPBACK)
    assert caught.value.code in {"bad_url", "forbidden_url"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST", "127.1", "0x7f.1", "2130706433", "0.0.0.0", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1",
        "100.100.100.200", "169.254.169.254", "[fd00:ec2::254]", "[fe80::1]", "168.63.129.16", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "unknown.test",
    ],
)  # fmt: skip
async def test_hosts_that_are_not_public_are_refused_alike(
    site: Site, names: dict[str, list[list[str]]], host: str
) -> None:
    names["unknown.test"] = [[]]
    with pytest.raises(InvalidInput) as caught:
        await fetch(site.url("/recording", host), fetch_limits())
    assert caught.value.code == "forbidden_url"
    assert caught.value.message == "the link's host does not exist, or is not public"
    assert site.requests == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True), ("93.184.215.14", True), ("2606:4700::1111", True), ("64:ff9b::101:101", True),
        ("2002:101:101::", True), ("::ffff:1.1.1.1", True), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False),
        ("64:ff9b:1::101:101", False), ("2002:c0a8:101::", False), ("::101:101", False), ("2001::1", False),
        ("2001:db8::1", False), ("3fff::1", False), ("fec0::1", False), ("ff02::1", False), ("4000::1", False),
        ("192.0.2.1", False), ("198.18.0.1", False), ("203.0.113.9", False), ("192.0.0.192", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


async def test_a_redirect_passes_the_same_check(site: Site) -> None:
    for number, target in enumerate(["http://169.254.169.254/latest/meta-data/", "//127.0.0.2/", "file:///etc/passwd"]):
        site.page(f"/{number}", f"HTTP/1.1 302 Found\nLocation: {target}\nContent-Length: 0")
        with pytest.raises(InvalidInput):
            await fetch(site.url(f"/{number}"), LOOPBACK)
    site.page("/loop", "HTTP/1.1 301 Moved\nLocation: /loop\nContent-Length: 0")
    with pytest.raises(Unprocessable, match=r"more than 5 times, the limit here \(URL_MAX_REDIRECTS\)"):
        await fetch(site.url("/loop"), LOOPBACK)
    assert len(site.requests) == 3 + 6
    with pytest.raises(Unprocessable, match="more than 0 times"):
        await fetch(site.url("/loop"), replace(LOOPBACK, max_redirects=0))
    assert len(site.requests) == 3 + 6 + 1


async def test_links_are_limited_in_length_and_so_are_redirects(site: Site) -> None:
    site.page("/far", f"HTTP/1.1 302 Found\nLocation: {site.url('/' + 'a' * 8192)}\nContent-Length: 0")
    for url in (site.url("/" + "a" * 8192), site.url("/far")):
        with pytest.raises(
            TooLarge, match=r"more than 8192 characters, the limit here \(URL_MAX_CHARACTERS\)"
        ) as caught:
            await fetch(url, LOOPBACK)
        assert caught.value.code == "url_too_long"
    assert len(site.requests) == 1
    assert await fetched(site.url("/recording"), replace(LOOPBACK, max_characters=40)) == RECORDING


async def test_a_name_is_resolved_once_and_all_its_addresses_count(
    site: Site, names: dict[str, list[list[str]]]
) -> None:
    names["rebinding.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    assert await fetched(site.url("/recording", "rebinding.test")) == RECORDING
    assert names["rebinding.test"] == [["127.0.0.2"]]
    assert f"host: rebinding.test:{site.port}" in site.requests[0].lower()
    names["mixed.test"] = [["127.0.0.1", "10.0.0.1"]]
    with pytest.raises(InvalidInput):
        await fetch(site.url("/recording", "mixed.test"), LOOPBACK)


async def test_the_next_address_is_tried_when_one_does_not_answer(
    site: Site, names: dict[str, list[list[str]]]
) -> None:
    names["two.test"] = [["127.0.0.2", "127.0.0.1"]]  # the site listens on the second only
    limits = fetch_limits(allow=AllowList.parse("two.test"))
    assert await fetched(site.url("/recording", "two.test"), limits) == RECORDING


async def test_the_allow_list_knows_names_addresses_and_networks(site: Site, names: dict[str, list[list[str]]]) -> None:
    names["media.test"] = names["other.test"] = [["127.0.0.1"]]
    for entry in ("Media.test", " 10.0.0.0/8 , 127.0.0.0/8", "127.0.0.1", "::1,127.0.0.1"):
        assert (
            await fetched(site.url("/recording", "media.test"), fetch_limits(allow=AllowList.parse(entry))) == RECORDING
        )
    for entry in ("", "media.test", "127.0.0.2", "10.0.0.0/8", "st"):
        with pytest.raises(InvalidInput):
            await fetch(site.url("/recording", "other.test"), fetch_limits(allow=AllowList.parse(entry)))
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        AllowList.parse("10.0.0.1/8")


async def test_too_much_is_refused_by_its_header_and_by_count(site: Site) -> None:
    limits = fetch_limits(max_upload_bytes=100_000, allow=LOOPBACK.allow)
    site.page("/declared", "HTTP/1.1 200 OK\nContent-Length: 2000000000")
    with pytest.raises(TooLarge, match=r"100000 bytes .*the limit here \(MAX_UPLOAD_BYTES\)"):
        await fetch(site.url("/declared"), limits)
    stopped = asyncio.Event()

    async def endless(_request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(bytes(10_000))
                await writer.drain()
        finally:
            stopped.set()

    site.pages["/endless"] = endless
    with pytest.raises(TooLarge, match=r"100000 bytes .*the limit here \(MAX_UPLOAD_BYTES\)") as caught:
        await fetch(site.url("/endless"), limits)
    assert caught.value.code == "file_too_large"
    await asyncio.wait_for(stopped.wait(), 10)
    site.page("/exact", "HTTP/1.1 200 OK\nContent-Length: 100000", bytes(100_000))
    assert len(await fetched(site.url("/exact"), limits)) == 100_000


@pytest.mark.parametrize(
    ("head", "body", "error", "says"),
    [
        ("HTTP/1.1 404 Not Found\nContent-Length: 3", b"no!", Unprocessable, "HTTP status 404"),
        ("HTTP/1.1 500 Oops\nContent-Length: 0", b"", Unprocessable, "HTTP status 500"),
        ("HTTP/1.1 304 Not Modified", b"", Unprocessable, "HTTP status 304"),
        ("HTTP/1.1 200 OK\nContent-Length: 1000", b"only this", Unprocessable, "before the end"),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"5\r\nabc", Unprocessable, "before the end"),
        ("HTTP/1.1 200 OK\nContent-Length: -5", b"abc", Unprocessable, "does not answer"),
        ("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 9", b"\x1f\x8b1234567", Unprocessable, "compresses"),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked", b"0\r\n\r\n", Unprocessable, "does not answer"),
        ("HTTP/1.1 200 OK\nContent-Length: 0", b"", InvalidInput, "empty"),
        ("SSH-2.0-OpenSSH_9.6", b"", Unprocessable, "does not answer"),
        ("HTTP/1.1 200 OK\nX: " + "y" * 200_000, b"", Unprocessable, "does not answer"),
    ],
)
async def test_answers_that_are_no_recording(
    site: Site, head: str, body: bytes, error: type[ServingError], says: str
) -> None:
    site.page("/a", head, body)
    with pytest.raises(error, match=says) as caught:
        await fetch(site.url("/a"), LOOPBACK)
    assert "127.0.0.1" not in caught.value.message


async def test_a_content_length_that_is_too_small_ends_the_recording(site: Site) -> None:
    site.page("/a", "HTTP/1.1 200 OK\nContent-Length: 5", RECORDING)
    assert await fetched(site.url("/a")) == RECORDING[:5]


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Unprocessable, match="does not answer"):
            await fetch(f"http://127.0.0.1:{free.getsockname()[1]}/a", LOOPBACK)


@pytest.mark.parametrize("started", [False, True])
async def test_a_slow_host_runs_into_the_time_limit(site: Site, started: bool) -> None:
    gone = asyncio.Event()

    async def slow(_request: str, writer: asyncio.StreamWriter) -> None:
        if started:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
            await writer.drain()
        await gone.wait()

    site.pages["/slow"] = slow
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s, the limit here \(URL_TIMEOUT_SECONDS\)") as caught:
        await fetch(site.url("/slow"), fetch_limits(timeout_seconds=0.2, allow=LOOPBACK.allow))
    gone.set()
    assert caught.value.code == "url_timeout"


async def test_cancelling_leaves_nothing(site: Site, spool: Path) -> None:
    gone = asyncio.Event()

    async def slow(_request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2 << 20))
        await gone.wait()

    site.pages["/slow"] = slow
    task = asyncio.create_task(fetch(site.url("/slow"), LOOPBACK))
    await asyncio.to_thread(wait_for, "a file", lambda: any(file.stat().st_size for file in spooled(spool)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gone.set()


async def test_proxies_of_the_environment_play_no_part(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await fetched(site.url("/recording")) == RECORDING


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """A server's TLS for the name recordings.test, which this process trusts as SSL_CERT_FILE."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "recordings.test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("recordings.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "certificate.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    fetching._tls.cache_clear()
    yield context
    fetching._tls.cache_clear()


async def test_tls_checks_the_name_though_the_address_was_resolved_before(
    certificate: ssl.SSLContext, names: dict[str, list[list[str]]]
) -> None:
    names["recordings.test"] = names["other.test"] = [["127.0.0.1"]]
    asked: list[str | None] = []
    certificate.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with running(certificate) as site:
        assert await fetched(site.url("/recording", "recordings.test", "https")) == RECORDING
        with pytest.raises(Unprocessable, match="does not answer"):
            await fetch(site.url("/recording", "other.test", "https"), LOOPBACK)
        assert len(site.requests) == 1
    assert asked == ["recordings.test", "other.test"]

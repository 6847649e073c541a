"""Files behind links: http(s) to public addresses, under a size and a time limit, spooled to disk.

A client chooses the link, so whatever this pod could reach and the client could not must stay out of reach (SSRF). One
choke point sees every connection, those of redirects included: the host is resolved once, all of its addresses are
checked, and the connection goes to one of the checked addresses, so that a name cannot point elsewhere the second time.
TLS still checks the host's name. Proxies play no part, nor do credentials, but those that a caller has for the link's own origin.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, BinaryIO, Protocol, Self

import certifi
import httpcore
import httpx

from serving.errors import DeadlineExceeded, InvalidInput, TooLarge, Unprocessable
from serving.uploads.spool import Spool, too_large

_CONNECT_SECONDS = 5.0  # for one address; the next is tried after it
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that is assigned (RFC 4291, IANA)
# IANA's special-purpose address registries, written out because the standard library's reading of them changes between
# releases; 224.0.0.0/4 is multicast, 168.63.129.16 Azure's host agent.
_SPECIAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
_SPECIAL_IPV6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20"))

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class AllowList:
    """What may be fetched from although it is not public: hosts by name, addresses and networks."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """From names, addresses and networks (CIDR), separated by commas. Raises ValueError for a bad network."""
        hosts, networks = set(), []
        for entry in filter(None, (part.strip() for part in text.split(","))):
            if "/" in entry or _is_address(entry):
                networks.append(ip_network(entry))
            else:
                hosts.add(_normal(entry))
        return cls(frozenset(hosts), tuple(networks))

    def allows(self, host: str, address: Address) -> bool:
        """Whether `host`, which resolved to `address`, is on the list by its name or the address."""
        return _normal(host) in self.hosts or any(address in network for network in self.networks)


@dataclass(frozen=True)
class FetchLimits:
    """What fetching one link may take, and where it may lead. A refusal names the setting that holds the value."""

    max_upload_bytes: int
    """Largest file."""
    timeout_seconds: float
    """Time for everything: names, redirects, the download."""
    max_redirects: int
    """Most hops from the client's link to the file."""
    max_characters: int
    """Longest link, and longest target of a redirect."""
    allow: AllowList
    """Exceptions from the rule that addresses be public."""


class Sink(Protocol):
    """What takes a download in: a `Spool`, or what reads an answer's parts on their way into one."""

    def add(self, data: bytes) -> None:
        """Takes the next bytes; `drain` follows. Raises ServingError."""

    async def drain(self) -> None:
        """Moves what was added on."""


async def fetch(url: str, limits: FetchLimits) -> BinaryIO:
    """Downloads a file. The caller closes it; when this raises, or is cancelled, nothing of it is left.

    Raises:
        InvalidInput: no http(s) link, one with credentials, one whose host is unknown or not public, or an empty file.
        TooLarge: a file over the limit, by its Content-Length or counted, or a link over its own.
        Unprocessable: the host does not answer, or with something else than a file.
        DeadlineExceeded: over `timeout_seconds`.
    """
    with Spool(limits.max_upload_bytes) as file:
        await download(url, limits, lambda _content_type: file)
        return await file.finish()


async def download(
    url: str,
    limits: FetchLimits,
    sink_for: Callable[[str], Sink],
    *,
    accept: str = "*/*",
    authorization: str = "",
) -> None:
    """Downloads an answer, past the guard, into what takes it in. Raises as `fetch` does, and as the sink does.

    Args:
        url: the client's link.
        limits: of the link and the answer.
        sink_for: what takes an answer of a content type in; it may refuse.
        accept: media types that the server is asked for.
        authorization: the header of that name, for the link's own origin; a redirect to another goes without.
    """
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            await _download(_checked(url, limits), limits, sink_for, accept, authorization)
    except TimeoutError:
        raise DeadlineExceeded(
            f"fetching the link takes longer than {limits.timeout_seconds:g} s, the limit here (URL_TIMEOUT_SECONDS)",
            code="url_timeout",
        ) from None
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
        raise Unprocessable(
            "the link's host does not answer, or stops before the end of the file", code="url_unreachable"
        ) from None


async def _download(
    url: httpx.URL, limits: FetchLimits, sink_for: Callable[[str], Sink], accept: str, authorization: str
) -> None:
    trusted = _origin(url)
    async with httpcore.AsyncConnectionPool(
        ssl_context=_tls(), network_backend=_GuardedNetwork(limits.allow)
    ) as connections:
        for _ in range(limits.max_redirects + 1):
            async with connections.stream(
                "GET",
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers={
                    "Host": url.netloc,
                    "User-Agent": "sonotome",
                    "Accept": accept,
                    "Accept-Encoding": "identity",
                    **({"Authorization": authorization} if authorization and _origin(url) == trusted else {}),
                },
            ) as response:
                headers = {name.lower(): value for name, value in response.headers}
                if response.status not in _REDIRECTS or b"location" not in headers:
                    _check(response.status, headers, limits)
                    sink = sink_for(headers.get(b"content-type", b"").decode("latin-1"))
                    async for chunk in response.aiter_stream():
                        sink.add(chunk)
                        await sink.drain()
                    return
                url = _checked(headers[b"location"].decode("latin-1"), limits, url)
    raise Unprocessable(
        f"the link redirects more than {limits.max_redirects} times, the limit here (URL_MAX_REDIRECTS)",
        code="url_redirects",
    )


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _checked(text: str, limits: FetchLimits, base: httpx.URL | None = None) -> httpx.URL:
    """A link, or where a redirect of `base` points. Raises InvalidInput or TooLarge."""
    if len(text) > limits.max_characters:
        raise TooLarge(
            f"the link has more than {limits.max_characters} characters, the limit here (URL_MAX_CHARACTERS)",
            code="url_too_long",
        )
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        host, port = url.host, url.port  # both are decoded when they are read
    except (httpx.InvalidURL, ValueError):
        raise InvalidInput("the link is not a valid URL", code="bad_url") from None
    if url.scheme not in {"http", "https"} or not host or port == 0:
        raise InvalidInput("a link must start with http:// or https:// and name a host", code="bad_url")
    if url.userinfo:
        raise InvalidInput("a link with a user name or password in it is not fetched", code="bad_url")
    return url


def _check(status: int, headers: dict[bytes, bytes], limits: FetchLimits) -> None:
    if not 200 <= status < 300:
        raise Unprocessable(f"the link's host answers with HTTP status {status}", code="url_status")
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise Unprocessable("the link's host compresses its answer although it was asked not to", code="url_encoding")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limits.max_upload_bytes:
        raise too_large(limits.max_upload_bytes)


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """The choke point: connects to addresses that were checked, and to nothing else."""

    def __init__(self, allow: AllowList):
        self._allow = allow
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolves, checks, connects. Raises InvalidInput, httpcore.ConnectError or httpcore.ConnectTimeout."""
        failure: Exception = httpcore.ConnectError()
        for address in await self._resolve(host, port):
            try:
                return await self._network.connect_tcp(address, port, _CONNECT_SECONDS, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _resolve(self, host: str, port: int) -> list[str]:
        """All addresses of a host. Unknown and forbidden hosts get the same answer: it is no map of our network."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        if not addresses or not all(self._may_connect(host, ip_address(address)) for address in addresses):
            raise InvalidInput("the link's host does not exist, or is not public", code="forbidden_url")
        return addresses

    def _may_connect(self, host: str, address: Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return is_public(address) or self._allow.allows(host, address)


def is_public(address: Address) -> bool:
    """Whether an address is one that anybody on the internet could reach as well.

    Private, loopback, link-local (cloud metadata), shared (CGNAT), multicast, reserved and unspecified ones are not; an
    IPv6 address that carries an IPv4 address (mapped, 6to4, NAT64) is judged by that.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_IPV4)
    carried = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        carried = IPv4Address(int(address) & 0xFFFF_FFFF)
    if carried is not None:
        return is_public(carried)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _SPECIAL_IPV6)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _normal(host: str) -> str:
    return host.lower().rstrip(".")


@cache
def _tls() -> ssl.SSLContext:
    """The system's authorities (SSL_CERT_FILE included) and certifi's, for images that have none."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context

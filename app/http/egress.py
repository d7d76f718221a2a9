"""Outgoing connections: which addresses may be called, and the connector that enforces it.

Tenants choose the URLs of webhooks and of their own provider accounts; those may lead to public addresses only. URLs
from the environment, and those of the operating project, may lead anywhere. `url_fault` refuses a URL whose text shows
that it is not public. `Connector` checks the address itself when its socket is made, so that no form of writing it, no
DNS answer and no other parser's reading of the URL leads to another.
"""

import asyncio
import re
import socket
from functools import partial
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.client_proto import ResponseHandler

log = structlog.get_logger()

LONGEST_URL = 2000
LONGEST_NAME = 253

HEAD_BYTES = 65536
"""The most bytes of an answer's head, with the interim answers before it."""

NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
"""A host whose last label is a number. The C library reads it as an IPv4 address (`127.1`, `0x7f000001`, `0`)."""

PRIVATE_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # Azure's host, which answers its virtual machines at a public address.
        ),
    )
)  # fmt: skip
"""IANA's special-purpose IPv4 addresses, and multicast."""

PUBLIC_V6 = IPv6Network("2000::/3")
"""All that IANA has allocated as global unicast; what is outside (ULA, site-local, link-local, …) is not public."""

PRIVATE_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
"""The special-purpose addresses within it: Teredo, benchmarking, documentation and 6to4 among them."""

EMBEDDED_V4 = tuple(map(IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))
"""Networks whose addresses reach the IPv4 address in their last 32 bits: mapped, and NAT64, which DNS64 servers answer
with in networks without IPv4."""

ISATAP = 0x5EFE
"""Bits 64 to 95 of an address that tunnels to the IPv4 address in its last 32 bits, bit 70 aside."""


class PrivateAddress(OSError):
    """A connection to an address that is not public was refused."""


class InvalidAnswer(OSError):
    """An answer that is not valid HTTP."""


def url_fault(url: str, *, private: bool) -> str | None:
    """Return what is wrong with a tenant's URL, as the end of a sentence; None if nothing is.

    Args:
        private: whether it may lead to a private address, and go without TLS.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if not host or not url.isascii() or not url.isprintable() or " " in url or len(url) > LONGEST_URL:
        return f"must be a URL with a host, of {LONGEST_URL} ASCII characters at most"
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        return "must begin with https://"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must have no user, no password and no fragment"
    if ("[" in parts.netloc) is not (":" in host):
        return "must have nothing but an IPv6 address in brackets"
    return _host_fault(host, private=private)


def _host_fault(host: str, *, private: bool) -> str | None:
    try:
        if ":" in host:
            address: IPv4Address | IPv6Address | None = IPv6Address(host)
        else:
            address = IPv4Address(host) if NUMERIC_END.fullmatch(host) else None
    except AddressValueError:
        return "must have a host name, an IPv4 address of four decimal numbers, or an IPv6 address in brackets"
    if address is None:
        if len(host) > LONGEST_NAME or not NAME.fullmatch(host):
            return "must have a host name of letters, digits and hyphens, without a dot at its end"
        return None
    if not private and not is_public(address):
        return "must lead to a public address"
    return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return True if an address, and the IPv4 address that it embeds, belongs to the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in PRIVATE_V4)
    if address.scope_id is not None:
        return False
    last = IPv4Address(int(address) & 0xFFFF_FFFF)
    if any(address in network for network in EMBEDDED_V4):
        return is_public(last)
    tunnels = int(address) >> 32 & 0xFDFF_FFFF == ISATAP
    return (
        address in PUBLIC_V6
        and not any(address in network for network in PRIVATE_V6)
        and not (tunnels and not is_public(last))
    )


class Connector(aiohttp.TCPConnector):
    """Connections of a session that calls out: to addresses that may be called, with answers of bounded length."""

    def __init__(self, *, public_only: bool, answer_bytes: int, **options: Any) -> None:
        """Args:
        public_only: whether it refuses every address that is not public, however it was found.
        answer_bytes: how many bytes of an answer, as they are sent, may follow its head.
        options: more of `aiohttp.TCPConnector`'s.
        """
        super().__init__(socket_factory=_public_socket if public_only else None, **options)
        self._factory = cast("partial[ResponseHandler]", partial(_Bounded, self._loop, answer_bytes))


def one_shot_session(
    *, public_only: bool, answer_bytes: int, seconds: float, headers: dict[str, str] | None = None
) -> aiohttp.ClientSession:
    """Return a session for single requests: without cookies, decompression, or kept connections.

    Args:
        public_only: whether it refuses every address that is not public.
        answer_bytes: the most bytes of an answer after its head.
        seconds: the time limit of a request with its answer.
        headers: headers of every request, beside `User-Agent`.
    """
    return aiohttp.ClientSession(
        connector=Connector(public_only=public_only, answer_bytes=answer_bytes, force_close=True, use_dns_cache=False),
        timeout=aiohttp.ClientTimeout(total=seconds),
        headers={"User-Agent": "Everthread", **(headers or {})},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


JSON_ONLY = {"Accept": "application/json", "Accept-Encoding": "identity"}
"""Headers of a request for a JSON document that is read without decompression."""


class _Bounded(ResponseHandler):
    """A connection that is closed when an answer is longer than it may be.

    aiohttp bounds the lines of a head, but neither the number of interim answers (1xx) before it nor the extensions of
    chunks, which are no part of the body that its reader counts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, answer_bytes: int) -> None:
        super().__init__(loop)
        self._answer_bytes = answer_bytes
        self._left = HEAD_BYTES

    def set_response_params(self, **how: Any) -> None:
        """Begin to read an answer: a connection is used for one after the other."""
        self._left = HEAD_BYTES
        super().set_response_params(**how)

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        super().data_received(data)
        if self._left < 0 and self.transport is not None:
            log.warning("an answer is longer than it may be; its connection is closed")
            self.transport.abort()

    def feed_data(self, data: tuple[Any, Any], size: int = 0) -> None:
        if data[0].code >= 200:
            self._left += self._answer_bytes
        super().feed_data(data, size)


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket for an address that is about to be connected to.

    Raises:
        PrivateAddress: it is not public.
    """
    family, type_, protocol, _, where = info
    try:
        public = is_public(ip_address(where[0]))
    except ValueError:
        public = False
    if not public:
        log.warning("a connection to an address that is not public was refused", address=str(where[0]))
        raise PrivateAddress("the address is not public")
    return socket.socket(family, type_, protocol)


def reason(error: Exception) -> str:
    """Return why a request failed, as a clause in our own words.

    The HTTP library's text quotes what was received and names addresses of the network that the service runs in. A name
    without an address and an address that refuses are one to a tenant, who would else learn which private names exist.
    """
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "its TLS certificate is not valid"
        case aiohttp.ClientConnectorSSLError():
            return "the TLS handshake failed"
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "no connection could be made to its host"
        case aiohttp.ClientResponseError() | InvalidAnswer():
            return "the answer is not valid HTTP"
        case aiohttp.InvalidURL():
            return "its URL is not valid"
        case _:
            return "the connection was closed before the answer was complete"

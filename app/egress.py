"""Where a webhook may lead: outside. Checked in its URL, and again at each address that a name turns out to have."""

import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

LONGEST_URL = 2000

NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Inside(OSError):
    """A name leads to no address that is outside."""


def wrong_with(url: str, *, inside: bool) -> str | None:
    """What is wrong with a webhook's URL, as the end of a sentence; None if nothing is.

    Args:
        inside: whether it may lead inside, and go without TLS.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no URL"
    if not host or not url.isascii() or not url.isprintable() or " " in url or len(url) > LONGEST_URL:
        return f"must be a URL with a host, of {LONGEST_URL} ASCII characters at most"
    if parts.scheme != "https" and not (inside and parts.scheme == "http"):
        return "must begin with https://"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must have no user, no password and no fragment"
    literal = _address(host)
    if literal is not None and not inside and not is_outside(literal):
        return "leads to an address that is private"
    return None


def is_outside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the public network's, and no other in its clothes."""
    if isinstance(address, ipaddress.IPv6Address):
        within = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if within is None and address in NAT64:
            within = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if within is not None:
            return is_outside(within)
    return address.is_global and not address.is_multicast


class OutsideResolver(AbstractResolver):
    """Looks names up, and knows only those of their addresses that are outside. What is connected to is what was
    checked: a name that changes its mind is looked up once."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        outside = [each for each in found if (at := _address(each["host"])) is not None and is_outside(at)]
        if not outside:
            raise Inside(f"{host} leads to no public address")
        return outside

    async def close(self) -> None:
        await self._resolver.close()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None

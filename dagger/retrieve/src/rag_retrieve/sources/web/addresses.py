"""Which addresses may be connected to: never this machine or its network, unless the user says so.

A name is resolved once for each request, and the request goes to the address that was checked, so that a
name which resolves differently the second time (DNS rebinding) leads nowhere else.
"""

from __future__ import annotations

import ipaddress
import socket

from rag_kit.errors import StepError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
METADATA = frozenset(  # of clouds, beside 169.254.169.254, which is link-local
    map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
NEVER_PRIVATE = tuple(
    map(ipaddress.ip_network, ("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "240.0.0.0/4"))
)


def resolve(host: str, port: int, *, private: bool) -> list[str]:
    """Return the addresses of a host, all of which may be connected to.

    Args:
        host: A name, or an address in any notation.
        port: Where to.
        private: Whether addresses of this machine and of private networks are meant.

    Raises:
        StepError: `target_not_allowed`; `source_unavailable`, the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "the name is not valid"
        raise StepError("source_unavailable", f"{host} cannot be resolved: {why}") from None
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    for address in addresses:
        if (why := refusal(ipaddress.ip_address(address.partition("%")[0]), private)) is not None:
            raise StepError("target_not_allowed", f"{host} is at {address}, {why}", param="source")
    return addresses


def refusal(address: IPAddress, private: bool) -> str | None:
    """Return why an address must not be connected to, or None."""
    address = _inner(address)
    if address in METADATA or address.is_link_local:
        return "where machines keep their credentials; nothing is read from there"
    if (
        address.is_multicast
        or address.is_unspecified
        or any(
            address in network for network in NEVER_PRIVATE if network.version == address.version
        )
    ):
        return "which is no address of a site"
    if address.is_global or private:
        return None
    return "an address of this machine or of a private network; --private allows that"


def _inner(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo and address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or teredo or address

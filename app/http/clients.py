"""Who is at the other end of a connection."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network


@lru_cache(maxsize=4096)
def party(address: str) -> str:
    """Return what stands for everybody at an address: itself, or its /64 where it is IPv6.

    A subscriber of IPv6 has 2^64 addresses at least (RFC 6177).
    """
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((int(found) >> 64 << 64, 64)))

"""Who is at the other end: the address a request comes from, through proxies that are trusted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address
# Nobody has more proxies; what stands further left was made up.
MAX_HOPS = 10


class Clients:
    """Tells where requests come from; ``trusted`` are the addresses and networks of proxies."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = [ip_network(text) for text in trusted]

    def is_trusted(self, peer: str) -> bool:
        """Tell whether a connection's other end is a proxy whose word counts."""
        address = _parse(peer)
        return address is not None and self._trusts(address)

    def party(self, peer: str, forwarded_for: str) -> str:
        """Return what stands for everybody at the address that a request comes from.

        ``peer`` is the other end of the connection. A trusted proxy adds the address it was asked
        from to the end of ``X-Forwarded-For``, so the rightmost address that is no trusted proxy
        counts; whatever is left of it anybody may have written.
        """
        if not forwarded_for or not self._trusted or not self.is_trusted(peer):
            return party(peer)
        nearest = peer
        for hop in reversed(forwarded_for.split(",")[-MAX_HOPS:]):
            address = _parse(hop)
            if address is None:
                break
            nearest = hop
            if not self._trusts(address):
                break
        return party(nearest)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


@lru_cache(maxsize=4096)
def party(address: str) -> str:
    """Return what stands for everybody at an address: itself, or its /64 where it is IPv6.

    A subscriber of IPv6 has 2^64 addresses at least (RFC 6177).
    """
    found = _parse(address)
    if found is None:
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    return str(ip_network((int(found) >> 64 << 64, 64)))


def _parse(text: str) -> Address | None:
    """Return an address, which may stand in brackets and have a port; None for anything else."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found

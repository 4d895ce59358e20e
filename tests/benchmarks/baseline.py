"""The least that a Python process can do to answer HTTP: what the server is compared with.

It reads a request's end and sends the same 15 bytes, with the standard library alone, so that it
changes with Python and the machine and with nothing of the product.
"""

from __future__ import annotations

import asyncio
import socket
import sys

ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n"
    b'{"status":"ok"}'
)


class Echo(asyncio.Protocol):
    """Answers whatever ends like a request without a body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request of what came."""
        for _ in range(data.count(b"\r\n\r\n")):
            self.transport.write(ANSWER)


async def _serve(port: int) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    server = await asyncio.get_running_loop().create_server(Echo, sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))

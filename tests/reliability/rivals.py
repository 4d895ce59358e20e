"""Processes that write at the same moment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from tests.reliability.server import Client

# Each rival connects, says that it is ready, waits for its starting signal and then writes once.
RIVAL = """
import http.client, json, sys
port, api_key, key, path = sys.argv[1:]
body = sys.stdin.buffer.readline()
connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
connection.connect()
print("ready", flush=True)
sys.stdin.buffer.readline()
connection.request("POST", path, body, {
    "X-API-Key": api_key, "Idempotency-Key": key, "Content-Type": "application/json"})
response = connection.getresponse()
content = response.read().decode()
print(json.dumps([response.status, response.getheader("Idempotent-Replayed"), content]))
"""


def race(
    clients: Sequence[Client], keys: Sequence[str], path: str, body: object
) -> list[list[object]]:
    """Let one process per client write at the same moment; return status, replayed and body."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, str(client.port), client.api_key, key, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for client, key in zip(clients, keys, strict=True)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(json.dumps(body) + "\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate(timeout=60)[0]) for process in processes]

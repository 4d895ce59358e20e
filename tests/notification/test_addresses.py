"""Where a webhook may not lead, however its name is spelled or made to change."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.access.service import create_key
from app.http.context import EXTENSION
from app.notification import sender
from app.notification.addresses import NOWHERE, UrlRefused, is_public, parse_url
from app.notification.sender import send
from tests.client import Api, Contract
from tests.notification.conftest import WEBHOOKS

# fmt: off
PRIVATE = (
    "127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "0.0.0.0", "0.1.2.3", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd12::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1",
    "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "100::1",
    "4000::1", "3fff::1", "3fff:fff::1", "168.63.129.16",
)
# fmt: on
PUBLIC = ("8.8.8.8", "93.184.216.34", "168.63.129.17", "2606:4700::1111", "2a00:1450:4001::200e")


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_on_the_internet_are_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_on_the_internet_are_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://example.com", "example.com", 443, "/", "example.com"),
        ("https://EXAMPLE.com:443/a?b=c", "example.com", 443, "/a?b=c", "example.com"),
        ("https://example.com:8443?x", "example.com", 8443, "/?x", "example.com:8443"),
        ("https://[2606:4700::1111]/", "2606:4700::1111", 443, "/", "[2606:4700::1111]"),
    ],
)
def test_a_url_has_parts(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = parse_url(url, allow_private=False)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert target.authority == authority


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "https://a\\@b/", "https://a@b/", "//example.com", "https://-a.com/"],
)
def test_a_url_that_could_be_misread_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        parse_url(url, allow_private=False)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """A resolver of the test's own: each name has the addresses of each time it is asked."""
    known: dict[str, list[list[str]]] = {}
    original = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
        if host not in known:
            return original(host, port, *arguments, **named)
        now = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return [entry for address in now for entry in original(address, port, *arguments, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


@pytest.fixture
def strict(settings: Any) -> Any:
    """The settings as an operator has them by default."""
    return replace(settings, webhook_allow_private=False)


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize(
    "url",
    [
        "https://localhost/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://metadata.test/",
        "https://mixed.test/",
        "http://public.test/",
    ],
)
def test_it_cannot_be_subscribed(
    url: str, names: dict[str, list[list[str]]], strict: Any, tmp_path: Path
) -> None:
    names |= {
        "metadata.test": [["169.254.169.254"]],
        "mixed.test": [["8.8.8.8", "10.0.0.1"]],
        "public.test": [["8.8.8.8"]],
    }
    app = create_app(strict)
    services = app.extensions[EXTENSION]
    with services.database.transaction() as session:
        key = create_key(session, services.pepper, "acme", "developer").secret
    acme = Api(app.test_client(), Contract(app), key)
    response = acme.post(WEBHOOKS, {"url": url})
    assert response.status_code == 422
    assert [entry["pointer"] for entry in response.get_json()["errors"]] == ["/url"]
    assert acme.post(WEBHOOKS, {"url": "https://public.test/"}).status_code == 200
    services.database.dispose()


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_refusal_does_not_tell_which_names_a_private_network_has(
    names: dict[str, list[list[str]]], strict: Any, tmp_path: Path
) -> None:
    names |= {"vm.test": [["10.0.0.7"]], "mixed.test": [["8.8.8.8", "10.0.0.1"]]}
    app = create_app(strict)
    services = app.extensions[EXTENSION]
    with services.database.transaction() as session:
        key = create_key(session, services.pepper, "acme", "developer").secret
    acme = Api(app.test_client(), Contract(app), key)
    found = []
    for host in ("vm.test", "mixed.test", "nonexistent.invalid", "10.0.0.7", "localhost"):
        refused = acme.post(WEBHOOKS, {"url": f"https://{host}/"})
        found.append({**refused.get_json(), "request_id": "", "status": refused.status_code})
        assert attempt(f"https://{host}/").error == NOWHERE
    assert found == [found[0]] * len(found)
    assert found[0]["errors"] == [{"pointer": "/url", "code": "invalid", "detail": NOWHERE}]
    services.database.dispose()


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_repeated_request_needs_no_resolver(
    names: dict[str, list[list[str]]], strict: Any
) -> None:
    names["public.test"] = [["8.8.8.8"]]
    app = create_app(strict)
    services = app.extensions[EXTENSION]
    with services.database.transaction() as session:
        key = create_key(session, services.pepper, "acme", "developer").secret
    acme = Api(app.test_client(), Contract(app), key)
    body = {"url": "https://public.test/"}
    first = acme.post(WEBHOOKS, body, idempotency_key="once")
    change = {"description": "still there"} | body
    changed = acme.request(
        "PATCH", f"{WEBHOOKS}/{first.get_json()['id']}", json=change, idempotency_key="changed"
    )
    assert (first.status_code, changed.status_code) == (200, 200)
    del names["public.test"]
    again = acme.post(WEBHOOKS, body, idempotency_key="once")
    assert (again.headers["Idempotent-Replayed"], again.get_json()["id"]) == (
        "true",
        first.get_json()["id"],
    )
    path = f"{WEBHOOKS}/{first.get_json()['id']}"
    again = acme.request("PATCH", path, json=change, idempotency_key="changed")
    assert again.data == changed.data
    refused = acme.post(WEBHOOKS, body, idempotency_key="later")
    assert refused.status_code == 422
    assert [entry["pointer"] for entry in refused.get_json()["errors"]] == ["/url"]
    names["public.test"] = [["8.8.8.8"]]
    assert acme.post(WEBHOOKS, body, idempotency_key="later").status_code == 200
    services.database.dispose()


def attempt(url: str, *, allow_private: bool = False) -> Any:
    return send(url, {"webhook-id": "1"}, b"{}", allow_private=allow_private)


def test_a_name_that_has_become_private_is_not_connected_to(
    names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["rebound.test"] = [["127.0.0.1"]]
    connected: list[Any] = []
    monkeypatch.setattr(socket, "create_connection", lambda *a, **_: connected.append(a))
    result = attempt("https://rebound.test/")
    assert (result.status, result.succeeded) == (None, False)
    assert result.error == NOWHERE
    assert connected == []


def test_the_address_that_was_checked_is_the_one_connected_to(
    names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second answer is what a rebinding name would have for the connection.
    names["rebound.test"] = [["93.184.216.34"], ["127.0.0.1"]]
    connected: list[Any] = []

    def connect(address: Any, *_: Any, **__: Any) -> Any:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert attempt("https://rebound.test:8443/").error == "the connection was refused"
    assert connected == [("93.184.216.34", 8443)]
    assert len(names["rebound.test"]) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of ``receiver.test``, with its key."""
    path = tmp_path_factory.mktemp("tls") / "receiver.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=receiver.test", "-addext", "subjectAltName=DNS:receiver.test",
         "-keyout", path, "-out", f"{path}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[int]:
    """A receiver that speaks TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            right = self.headers["Host"].startswith("receiver.test")
            self.send_response(200 if right else 400)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_the_certificate_must_be_that_of_the_name(
    names: dict[str, list[list[str]]],
    tls_port: int,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names |= {"receiver.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]}
    untrusted = attempt(f"https://receiver.test:{tls_port}/", allow_private=True)
    assert untrusted.error is not None
    assert untrusted.error.startswith("the certificate is refused")
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(sender, "_tls_context", lambda: trusting)
    assert attempt(f"https://receiver.test:{tls_port}/", allow_private=True).status == 200
    other = attempt(f"https://other.test:{tls_port}/", allow_private=True)
    assert (other.status, other.succeeded) == (None, False)
    assert "certificate" in str(other.error)


def test_what_is_not_http_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"220 mail.example.com ESMTP\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        result = attempt(f"http://127.0.0.1:{listener.getsockname()[1]}/", allow_private=True)
        thread.join()
    assert result.error == "the answer is not HTTP"


@pytest.mark.parametrize("silence", ["connected", "handshake"])
def test_a_receiver_that_says_nothing_is_given_up(
    silence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "TOTAL_SECONDS", 0.2)
    scheme = "https" if silence == "handshake" else "http"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert attempt(f"{scheme}://127.0.0.1:{port}/", allow_private=True).error == (
            "no answer in time"
        )


def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, make_receiver: Callable[[], Any]
) -> None:
    proxy, receiver = make_receiver(), make_receiver()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert attempt(receiver.url, allow_private=True).status == 204
    assert proxy.requests == []

"""Health probes: HTTP, containerd's socket, and a DNS question."""

import socket
import ssl
import struct
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 2.0


def http_ok(url: str) -> bool:
    """Whether the address answers 200. Certificates are not verified: some components sign their own."""
    context = ssl._create_unverified_context() if url.startswith("https") else None
    # The addresses are the host's own; a proxy from the environment must not see them.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def socket_ok(path: Path) -> bool:
    """Whether something accepts connections on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        return client.connect_ex(str(path)) == 0


def dns_query(name: str) -> bytes:
    """A DNS question for the A record of a name (RFC 1035)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.strip(".").split("."))
    return struct.pack(">6H", 0x554D, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)


def dns_ok(server: str, name: str) -> bool:
    """Whether the server answers the question without an error and with at least one record."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1.0)
        try:
            client.sendto(dns_query(name), (server, 53))
            answer = client.recv(512)
        except OSError:
            return False
    ident, flags, _, records = struct.unpack(">4H", answer[:8])
    return bool(ident == 0x554D and flags & 0xF == 0 and records > 0)

"""Who is trusted, and what is said of a certificate that is not. The handshakes are real, over a pair of sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from tests.authority import EXPIRED, LOOPBACK, Authority, Pair
from umim import tls
from umim.errors import ConfigError

OURS, OTHER = Authority("ours"), Authority("another")
SERVICE = "umim-minio.umim-system.svc"


def handshake(server: Pair, ca: str | None, name: str, folder: Path) -> str | None:
    """Connect and return what is wrong with the server, or None."""
    server.write(folder / "server.crt", folder / "server.key")
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(folder / "server.crt", folder / "server.key")
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            listening.wrap_socket(far, server_side=True).close()
        except OSError:  # the client went away: it did not trust
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        tls.context(ca).wrap_socket(near, server_hostname=name).close()
    except OSError as error:
        return tls.problem(error, "objectStore", "UMIM_S3_CA")
    finally:
        near.close()
        thread.join()
    return None


@pytest.mark.parametrize("name", [SERVICE, LOOPBACK])
def test_a_server_that_a_trusted_authority_signed_is_trusted_under_its_names(name: str, tmp_path: Path) -> None:
    assert handshake(OURS.issue([SERVICE, LOOPBACK]), OURS.pem, name, tmp_path) is None


def test_any_authority_of_a_bundle_will_do_so_that_one_can_follow_the_other(tmp_path: Path) -> None:
    both = OURS.pem + OTHER.pem
    assert handshake(OURS.issue(), both, LOOPBACK, tmp_path) is None
    assert handshake(OTHER.issue(), both, LOOPBACK, tmp_path) is None


@pytest.mark.parametrize("ca", [OTHER.pem, None], ids=["another authority", "the system's authorities"])
def test_a_server_of_an_unknown_authority_is_refused_and_the_value_to_set_is_named(
    ca: str | None, tmp_path: Path
) -> None:
    said = handshake(OURS.issue(), ca, LOOPBACK, tmp_path)
    assert said is not None
    assert "is not signed by an authority that is trusted here" in said
    assert "set objectStore.ca of charts/umim (UMIM_S3_CA)" in said


def test_a_bundle_replaces_the_authorities_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OURS.issue().write(tmp_path / "unused", tmp_path / "unused.key")
    system = tmp_path / "system.pem"
    system.write_text(OURS.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(system))
    assert handshake(OURS.issue(), None, LOOPBACK, tmp_path) is None
    assert handshake(OURS.issue(), OTHER.pem, LOOPBACK, tmp_path) is not None


@pytest.mark.parametrize(("name", "shown"), [("other.svc", "'other.svc'"), ("10.0.0.1", "'10.0.0.1'")])
def test_a_server_of_another_name_is_refused_and_the_name_is_shown(name: str, shown: str, tmp_path: Path) -> None:
    said = handshake(OURS.issue([SERVICE]), OURS.pem, name, tmp_path)
    assert said is not None
    assert said.startswith("its certificate is for another host")
    assert shown in said


@pytest.mark.parametrize(
    ("ends", "message"),
    [(EXPIRED, "a certificate has expired: renew that of the server"), (timedelta(days=99), "not valid yet")],
)
def test_a_certificate_out_of_its_time_is_refused(ends: timedelta, message: str, tmp_path: Path) -> None:
    said = handshake(OURS.issue(ends=ends), OURS.pem, LOOPBACK, tmp_path)
    assert said is not None
    assert message in said


def test_a_ca_that_is_not_as_rfc_5280_wants_it_is_refused_and_the_message_says_why(tmp_path: Path) -> None:
    lax = Authority("lax", key_usage=False)
    said = handshake(lax.issue(), lax.pem, LOOPBACK, tmp_path)
    assert said is not None
    assert "its certificate is refused (" in said
    assert "key usage" in said


def test_other_errors_are_not_explained_as_certificates() -> None:
    assert tls.problem(ConnectionRefusedError("refused"), "redis", "UMIM_REDIS_CA") is None


def test_errors_that_point_at_each_other_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert tls.problem(first, "redis", "UMIM_REDIS_CA") is None


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_no_bundle_is_none(text: str | None) -> None:
    assert tls.checked_bundle("UMIM_S3_CA", text) is None


def test_of_a_bundle_the_certificates_are_kept() -> None:
    noted = f"# the hospital's own, für alle\n{OURS.pem}\n# and its next one\n{OTHER.pem}"
    assert tls.checked_bundle("UMIM_S3_CA", noted) == OURS.pem + OTHER.pem


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        ("/etc/ssl/ca.pem", "UMIM_S3_CA holds no certificates in PEM form"),
        (OURS.pem.replace("M", "ä"), "UMIM_S3_CA holds no certificates in PEM form"),
        (OURS.pem + OURS.issue().key, "UMIM_S3_CA holds a private key: it goes to every hospital"),
        (OURS.pem * 150, "UMIM_S3_CA has [0-9]+ characters, at most 65536 are allowed"),
        ("ä", "UMIM_S3_CA holds no certificates in PEM form"),
    ],
)
def test_what_is_no_bundle_is_refused_by_the_name_of_its_variable(bundle: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tls.checked_bundle("UMIM_S3_CA", bundle)


def test_verification_cannot_be_turned_off() -> None:
    for ca in (None, OURS.pem):
        context = tls.context(ca)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2

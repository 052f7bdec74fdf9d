"""Certificate authorities of the tests and what they sign."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = "127.0.0.1"
VALID = timedelta(days=2)
EXPIRED = -timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, in PEM form."""

    certificate: str
    key: str

    def write(self, certificate: Path, key: Path) -> None:
        """Write both to files that only their owner reads."""
        for path, text in ((certificate, self.certificate), (key, self.key)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(text)


class Authority:
    """A certificate authority with a new key; without keyUsage it is not as RFC 5280 wants it."""

    def __init__(self, name: str, *, key_usage: bool = True) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        body = _body(self._name, self._name, self._key, self._key, VALID)
        body = body.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        if key_usage:
            body = body.add_extension(_usage(signs=True), critical=True)
        self.pem = _pem(body.sign(self._key, hashes.SHA256()))
        """What clients have to trust."""

    def issue(self, hosts: Sequence[str] = (LOOPBACK,), ends: timedelta = VALID) -> Pair:
        """Return a certificate for host names and addresses that ends so long from now, with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        body = _body(_named("server"), self._name, key, self._key, ends)
        body = body.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        body = body.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        signed = body.add_extension(_usage(signs=False), critical=True).sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(_pem(signed), private.decode())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _body(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    ends: timedelta,
) -> x509.CertificateBuilder:
    end = datetime.now(UTC) + ends
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=10))
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()

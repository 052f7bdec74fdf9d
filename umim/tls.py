"""Whom connections to store and Redis trust, and what to say when a certificate is refused. Opens no connection.

Certificate and host name are always verified; there is no way to ask for less.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

from umim.errors import ConfigError

MOST_CA_BYTES = 64 << 10
"""The bundle is part of every Job, as one variable: Linux takes 128 KiB for it."""

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
_UNTRUSTED = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's codes: no issuer found, self-signed, no chain to a trusted certificate."""


def checked_bundle(name: str, bundle: str | None) -> str | None:
    """Return the certificates in a variable, without text between them; None where it is unset or blank.

    Raises ConfigError naming the variable.
    """
    if not (bundle or "").strip():
        return None
    if "PRIVATE KEY-----" in str(bundle):
        raise ConfigError(f"{name} holds a private key: it goes to every hospital, give certificates only")
    found = "".join(block + "\n" for block in _CERTIFICATE.findall(str(bundle)))
    if len(found) > MOST_CA_BYTES:
        raise ConfigError(f"{name} has {len(found)} characters, at most {MOST_CA_BYTES} are allowed: name fewer CAs")
    try:
        context(found)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{name} holds no certificates in PEM form (-----BEGIN CERTIFICATE----- and so on): {error}"
        ) from error
    if not found:
        raise ConfigError(f"{name} holds no certificates in PEM form: no line is -----BEGIN CERTIFICATE-----")
    return found


def context(ca: str | None) -> ssl.SSLContext:
    """Return how to connect: trusting the certificates in ``ca`` alone, by default the system's authorities.

    Any certificate of the bundle is an anchor, also an intermediate one, and RFC 5280 is kept strictly: as Python 3.13
    does by itself, so that a laptop with an older one and the images agree.
    """
    found = ssl.create_default_context(cadata=ca)
    found.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    return found


def problem(error: BaseException, values: str, variable: str) -> str | None:
    """Return what is wrong with the server's certificate and what to do, or None when that is not the error.

    ``values`` is the part of charts/umim's values that describes the server, ``variable`` what holds its CA.
    """
    refusal = next((one for one in _causes(error) if isinstance(one, ssl.SSLError)), None)
    if isinstance(refusal, ssl.SSLCertVerificationError):
        return _certificate(refusal, values, variable)
    if refusal is not None and refusal.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return f"the server does not speak TLS on this port: check scheme and port in {values}"
    return None


def _certificate(refusal: ssl.SSLCertVerificationError, values: str, variable: str) -> str:
    code, text = refusal.verify_code, refusal.verify_message.rstrip(".")
    if code in _UNTRUSTED:
        return (
            f"its certificate is not signed by an authority that is trusted here ({text}): set {values}.ca of "
            f"charts/umim ({variable}) to the certificate of its CA"
        )
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        return f"its certificate is for another host ({text}): use a name that it holds in {values}, or renew it"
    if code == _EXPIRED:
        return f"a certificate has expired: renew that of the server, or that of the CA in {values}.ca ({variable})"
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet: check the clocks of server and node"
    return f"its certificate is refused ({text}): renew it, or its CA in {values}.ca ({variable})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Walk from an error to what is below it: libraries wrap by cause, by context, as reason or as argument."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]

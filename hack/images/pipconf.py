"""Tell pip inside a build how this machine reaches its package index, by build secrets that no layer keeps."""

from __future__ import annotations

import configparser
import io
from pathlib import Path

# Settings that make sense inside a build. Paths of this machine (find-links, cert, cache-dir) do not.
_PASSED = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")
_CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def config_files(environ: dict[str, str], home: Path) -> list[Path]:
    """Return pip's configuration files on this machine, the strongest last (as pip documents them)."""
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    if "PIP_CONFIG_FILE" in environ:
        files.append(Path(environ["PIP_CONFIG_FILE"]))
    return files


def build_config(environ: dict[str, str], files: list[Path]) -> str:
    """Return the pip.conf for builds: what `files` and the `PIP_*` variables of `environ` say, as far as it fits."""
    host = configparser.ConfigParser(interpolation=None, strict=False)
    host.read(files)
    result = configparser.ConfigParser(interpolation=None)
    result.add_section("global")
    for section in ("global", "install"):
        if host.has_section(section):
            for key, value in host.items(section):
                if key in _PASSED:
                    result.set("global", key, value)
    for key in _PASSED:
        value = environ.get("PIP_" + key.upper().replace("-", "_"), "")
        if value:
            result.set("global", key, value)
    text = io.StringIO()
    result.write(text)
    return text.getvalue()


def ca_bundle(environ: dict[str, str]) -> Path | None:
    """Return the file of certificate authorities that `environ` names, or None to use the image's own."""
    for variable in _CA_VARIABLES:
        if environ.get(variable) and Path(environ[variable]).is_file():
            return Path(environ[variable])
    return None


def secrets(environ: dict[str, str], home: Path, folder: Path) -> list[str]:
    """Write the secrets below `folder` (readable by this user only) and return buildah's `--secret` arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "pip.conf"
    config.touch(mode=0o600)
    config.write_text(build_config(environ, config_files(environ, home)))
    arguments = ["--secret", f"id=pip.conf,src={config}"]
    bundle = ca_bundle(environ)
    if bundle is not None:
        arguments += ["--secret", f"id=ca.pem,src={bundle}"]
    return arguments

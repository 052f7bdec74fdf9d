#!/bin/sh
# Makes sure that python3 >= 3.11 with venv is there. Everything else is installed by Python code.
set -eu
if python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "UMIM needs python3 >= 3.11 with the venv module: install it, then run the same command again." >&2
    exit 1
fi
echo "Installing python3 from Debian …" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
if ! python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; then
    echo "Debian's python3 is older than 3.11: use Debian 12 or newer, or put a newer python3 on PATH." >&2
    exit 1
fi

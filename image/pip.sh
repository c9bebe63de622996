#!/bin/sh
# pip.sh VENV OPTIONS…: installs into VENV what the options name, from wheels whose hashes they state.
# Behind a proxy that ends TLS, the build's secret `ca` holds the certificates that pip trusts; it never enters the image.
set -eu
venv=$1
shift
if test -s /run/secrets/ca; then
    PIP_CERT=/run/secrets/ca
    export PIP_CERT
fi
exec /opt/build/bin/pip --python "$venv/bin/python3" install --quiet --require-hashes --only-binary :all: --no-compile "$@"

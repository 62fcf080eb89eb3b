#!/bin/sh
# Starts nginx in its container: puts the settings of .env into its configuration, and becomes it.
set -eu
files=${TMPDIR:-/tmp}
certificates=${CERTIFICATES:-/run/certificates}

for file in server.crt server.key clients-ca.crt api-keys; do
  if ! [ -r "$certificates/$file" ]; then
    echo "edge: $file is missing in EDGE_CERTIFICATES, or EDGE_USER ($(id -u):$(id -g)) cannot read it." \
      "serving/edge/make-certificates makes a set." >&2
    exit 1
  fi
done
export files certificates
# shellcheck disable=SC2016
envsubst '$files $certificates $CLIENT_CERTIFICATES $REQUEST_SIZE $REQUEST_RATE $REQUEST_BURST' \
  < "$(dirname "$0")/nginx.conf.template" > "$files/nginx.conf"
exec nginx -e stderr -c "$files/nginx.conf" -g 'daemon off;'

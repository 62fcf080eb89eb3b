#!/bin/sh
# Starts HAProxy in its container, after checking that its certificates and keys are readable.
set -eu
export CERTIFICATES="${CERTIFICATES:-/run/certificates}"

for file in server.crt server.key clients-ca.crt api-keys; do
  if ! [ -r "$CERTIFICATES/$file" ]; then
    echo "edge: $file is missing in EDGE_CERTIFICATES, or EDGE_USER ($(id -u):$(id -g)) cannot read it." \
      "deploy/edge/make-certificates makes a set." >&2
    exit 1
  fi
done
# A replica has REQUEST_THREADS threads each for gRPC and for REST. A quarter stays free for health checks, which a busy
# replica must still answer, for rollouts and for Prometheus.
export SMALL_REQUESTS=$((REQUEST_THREADS * 3 / 4 - LARGE_REQUESTS))
exec haproxy -W -db -f "$(dirname "$0")/haproxy.cfg"

#!/bin/sh
# GET /metrics: for Prometheus.
# usage: metrics.sh
set -eu
. "$(dirname "$0")/common.sh"

call "$admin_url/metrics"

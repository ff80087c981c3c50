#!/bin/sh
# GET /health: whether the process serves, and what it knows of the backends.
# usage: health.sh
set -eu
. "$(dirname "$0")/common.sh"

call "$url/health"

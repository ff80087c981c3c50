#!/bin/sh
# GET /ready: whether work can be sent here; exit status 22 when not.
# usage: ready.sh
set -eu
. "$(dirname "$0")/common.sh"

call "$url/ready"

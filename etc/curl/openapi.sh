#!/bin/sh
# GET /openapi.json: all calls in detail, with every limit.
# usage: openapi.sh
set -eu
. "$(dirname "$0")/common.sh"

call "$url/openapi.json"

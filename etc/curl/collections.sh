#!/bin/sh
# GET /rag/collections: those that the key may see.
# usage: collections.sh
set -eu
. "$(dirname "$0")/common.sh"

call "$url/rag/collections"

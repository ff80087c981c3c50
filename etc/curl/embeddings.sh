#!/bin/sh
# POST /v1/embeddings: the vectors of texts.
# usage: embeddings.sh TEXT...
set -eu
. "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || { echo 'usage: embeddings.sh TEXT...' >&2; exit 2; }
jq --null-input '{input: $ARGS.positional}' --args "$@" |
    call "$url/v1/embeddings" --json @-

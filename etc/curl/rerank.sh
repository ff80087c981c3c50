#!/bin/sh
# POST /v1/rerank: texts by how well they answer a question (Jina's address).
# usage: rerank.sh QUESTION TEXT...
set -eu
. "$(dirname "$0")/common.sh"

[ $# -gt 1 ] || { echo 'usage: rerank.sh QUESTION TEXT...' >&2; exit 2; }
jq --null-input '{query: $ARGS.positional[0], documents: $ARGS.positional[1:]}' --args "$@" |
    call "$url/v1/rerank" --json @-

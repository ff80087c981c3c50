#!/bin/sh
# POST /rerank: the same at the address of llama.cpp.
# usage: rerank-llama.sh QUESTION TEXT...
set -eu
. "$(dirname "$0")/common.sh"

[ $# -gt 1 ] || { echo 'usage: rerank-llama.sh QUESTION TEXT...' >&2; exit 2; }
jq --null-input '{query: $ARGS.positional[0], documents: $ARGS.positional[1:]}' --args "$@" |
    call "$url/rerank" --json @-

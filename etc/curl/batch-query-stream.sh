#!/bin/sh
# POST /rag/batch-query: many questions at once, a line each as it is answered.
# usage: batch-query-stream.sh QUESTION...
set -eu
. "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || { echo 'usage: batch-query-stream.sh QUESTION...' >&2; exit 2; }
jq --null-input --arg collection "$collection" \
    '{stream: true, queries: [$ARGS.positional[] | {query: ., $collection}]}' --args "$@" |
    call "$url/rag/batch-query" --json @-

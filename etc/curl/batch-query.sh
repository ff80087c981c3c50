#!/bin/sh
# POST /rag/batch-query: many questions at once, answered in their order.
# usage: batch-query.sh QUESTION...
set -eu
. "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || { echo 'usage: batch-query.sh QUESTION...' >&2; exit 2; }
jq --null-input --arg collection "$collection" \
    '{queries: [$ARGS.positional[] | {query: ., $collection}]}' --args "$@" |
    call "$url/rag/batch-query" --json @-

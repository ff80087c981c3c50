#!/bin/sh
# POST /rag/query: the same as it comes: the sources, the answer piece by piece, the whole of it.
# usage: query-stream.sh QUESTION [COLLECTION]
set -eu
. "$(dirname "$0")/common.sh"

question=${1:?usage: query-stream.sh QUESTION [COLLECTION]}
jq --null-input --arg query "$question" --arg collection "${2:-$collection}" '{$query, $collection, stream: true}' |
    call "$url/rag/query" --json @-

#!/bin/sh
# POST /rag/query: an answer with its citations.
# usage: query.sh QUESTION [COLLECTION]
set -eu
. "$(dirname "$0")/common.sh"

question=${1:?usage: query.sh QUESTION [COLLECTION]}
jq --null-input --arg query "$question" --arg collection "${2:-$collection}" '{$query, $collection}' |
    call "$url/rag/query" --json @-

#!/bin/sh
# POST /rag/search: what is found, without an answer.
# usage: search.sh QUESTION [COLLECTION]
set -eu
. "$(dirname "$0")/common.sh"

question=${1:?usage: search.sh QUESTION [COLLECTION]}
jq --null-input --arg query "$question" --arg collection "${2:-$collection}" '{$query, $collection, top_k: 5}' |
    call "$url/rag/search" --json @-

#!/bin/sh
# POST /rag/ingest: a document, its text from standard input.
# usage: ingest-text.sh ID [COLLECTION] < TEXT
set -eu
. "$(dirname "$0")/common.sh"

id=${1:?usage: ingest-text.sh ID [COLLECTION] < TEXT}
jq --raw-input --slurp --arg id "$id" --arg collection "${2:-$collection}" \
    '{collection: $collection, documents: [{id: $id, text: .}]}' |
    call "$url/rag/ingest" --json @-

#!/bin/sh
# POST /rag/ingest: lines of JSON, a document each, of any number; each is answered when it is stored.
# usage: ingest-lines.sh [FILE] [COLLECTION]    without a file, or with "-", from standard input as it comes
set -eu
. "$(dirname "$0")/common.sh"

file=${1:--}
[ "$file" != - ] || file=.
call "$url/rag/ingest?collection=$(encoded "${2:-$collection}")" \
    --request POST --header 'Content-Type: application/x-ndjson' --upload-file "$file"

#!/bin/sh
# GET /rag/collections/{name}/documents: a page of them. CURSOR is the next_cursor of the page before.
# usage: documents.sh [COLLECTION] [LIMIT] [CURSOR]
set -eu
. "$(dirname "$0")/common.sh"

call "$url/rag/collections/$(encoded "${1:-$collection}")/documents" \
    --get --data-urlencode "limit=${2:-20}" ${3:+--data-urlencode "cursor=$3"}

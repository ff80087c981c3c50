#!/bin/sh
# GET /rag/collections/{name}/documents/{id}: its text and its chunks.
# usage: document.sh ID [COLLECTION]
set -eu
. "$(dirname "$0")/common.sh"

id=${1:?usage: document.sh ID [COLLECTION]}
call "$url/rag/collections/$(encoded "${2:-$collection}")/documents/$(encoded "$id")"

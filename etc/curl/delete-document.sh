#!/bin/sh
# DELETE /rag/collections/{name}/documents/{id}: a document; no error when it is gone already.
# usage: delete-document.sh ID [COLLECTION]
set -eu
. "$(dirname "$0")/common.sh"

id=${1:?usage: delete-document.sh ID [COLLECTION]}
call "$url/rag/collections/$(encoded "${2:-$collection}")/documents/$(encoded "$id")" --request DELETE

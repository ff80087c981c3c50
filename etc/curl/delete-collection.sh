#!/bin/sh
# DELETE /rag/collections/{name}: a collection with all that is in it.
# usage: delete-collection.sh COLLECTION
set -eu
. "$(dirname "$0")/common.sh"

name=${1:?usage: delete-collection.sh COLLECTION}
call "$url/rag/collections/$(encoded "$name")" --request DELETE

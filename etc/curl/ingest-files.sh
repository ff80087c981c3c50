#!/bin/sh
# POST /rag/ingest: files (.txt .md .html .pdf .docx), as a form.
# usage: ingest-files.sh FILE...
set -eu
. "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || { echo 'usage: ingest-files.sh FILE...' >&2; exit 2; }
for file; do
    shift
    set -- "$@" --form "file=@\"$(printf %s "$file" | sed 's/[\\"]/\\&/g')\""
done
call "$url/rag/ingest" --form-string "collection=$collection" "$@"

#!/bin/sh
# GET /admin/logs: the newest records of the log, or of the audit trail.
# usage: logs.sh [NAME=VALUE...]    kind=audit level=WARNING request_id=4711 since=2026-11-22T00:00:00Z limit=20
set -eu
. "$(dirname "$0")/common.sh"

for parameter; do
    shift
    set -- "$@" --data-urlencode "$parameter"
done
call "$admin_url/admin/logs" --get "$@"

#!/bin/sh
# POST /admin/sweep: removes what killed ingests left behind.
# usage: sweep.sh
set -eu
. "$(dirname "$0")/common.sh"

call "$admin_url/admin/sweep" --request POST

#!/bin/sh
# POST /admin/config/reload: reads the configuration again, and says what has changed.
# usage: reload.sh
set -eu
. "$(dirname "$0")/common.sh"

call "$admin_url/admin/config/reload" --request POST

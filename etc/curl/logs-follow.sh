#!/bin/sh
# GET /admin/logs: the newest records, and then those that come, a line each, until it is interrupted.
# usage: logs-follow.sh [NAME=VALUE...]    as logs.sh
set -eu

exec "$(dirname "$0")/logs.sh" follow=true "$@"

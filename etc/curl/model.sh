#!/bin/sh
# GET /v1/models/{id}: one of them.
# usage: model.sh MODEL
set -eu
. "$(dirname "$0")/common.sh"

model=${1:?usage: model.sh MODEL}
call "$url/v1/models/$(encoded "$model")"

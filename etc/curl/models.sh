#!/bin/sh
# GET /v1/models: all models, a rag: model for each collection among them.
# usage: models.sh
set -eu
. "$(dirname "$0")/common.sh"

call "$url/v1/models"

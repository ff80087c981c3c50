#!/bin/sh
# POST /v1/chat/completions: as OpenAI answers it.
# usage: chat.sh QUESTION [MODEL]    without a model, an answer from the collection
set -eu
. "$(dirname "$0")/common.sh"

question=${1:?usage: chat.sh QUESTION [MODEL]}
jq --null-input --arg content "$question" --arg model "${2:-rag:$collection}" \
    '{$model, messages: [{role: "user", $content}]}' |
    call "$url/v1/chat/completions" --json @-

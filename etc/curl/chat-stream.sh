#!/bin/sh
# POST /v1/chat/completions: as OpenAI streams it.
# usage: chat-stream.sh QUESTION [MODEL]    without a model, an answer from the collection
set -eu
. "$(dirname "$0")/common.sh"

question=${1:?usage: chat-stream.sh QUESTION [MODEL]}
jq --null-input --arg content "$question" --arg model "${2:-rag:$collection}" \
    '{$model, stream: true, messages: [{role: "user", $content}]}' |
    call "$url/v1/chat/completions" --json @-

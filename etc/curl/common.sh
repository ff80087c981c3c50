# Read by the scripts beside it, which need curl 7.82 and jq. From the environment:
#
#   HARTONOMOUS_URL         the server (default: http://127.0.0.1:8700)
#   HARTONOMOUS_ADMIN_URL   where /admin and /metrics are, if `server.admin` says so (default: the same)
#   HARTONOMOUS_API_KEY     a key, if the server has keys
#   HARTONOMOUS_COLLECTION  the collection, where none is given (default: docs)
# shellcheck shell=sh disable=SC2034

url=${HARTONOMOUS_URL:-http://127.0.0.1:8700}
admin_url=${HARTONOMOUS_ADMIN_URL:-$url}
collection=${HARTONOMOUS_COLLECTION:-docs}

# call URL [OPTION...]: ask; the exit status is curl's, 22 for an answer that is an error. The key comes out of a pipe:
# among the arguments every user of the host could read it.
call() {
    curl --no-progress-meter --fail-with-body --no-buffer --header @/dev/fd/3 "$@" 3<<KEY
${HARTONOMOUS_API_KEY:+Authorization: Bearer $HARTONOMOUS_API_KEY}
KEY
}

# encoded TEXT: a part of an address.
encoded() {
    jq --null-input --raw-output --arg text "$1" '$text | @uri'
}

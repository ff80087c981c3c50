"""What is kept so that it need not be asked again, and what is under way so that it need not be asked twice.

`memory`: a bounded cache. `flights`: one call for all who want the same. `groups`: single questions of
many callers in one call. `vectors`: the vectors of questions.
`answers`: whole answers, in memory or in Redis (`shared`). `generations`: what makes the answers of a changed
collection unreachable.
"""

"""Limits of what an address or a key may use.

`policy`: which limits hold for whom. `memory`: counted by this process. `shared`: counted in Redis for many. `limiter`:
what the server asks. `meter`: what one request uses.
"""

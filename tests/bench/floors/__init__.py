"""Bare programs that do what the application does, with nothing switched on: what it is measured against."""

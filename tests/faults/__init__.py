"""Faults for tests and for hands: a TCP proxy that spoils connections, backends that lie."""

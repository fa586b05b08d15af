"""Attacks on what a configuration would really run, each on a shadow copy that is removed afterwards.

`one_run` attacks one client's DP-SGD with canary pairs, `cosines` the sum of clients with canary clients, `shares` the
noise in the sum, `membership` and `schemes` the whole training in many runs. The statistics are in `privacy.audit`.
Nothing that an audit trains is released, and no ledger is written: canaries are public, and the client's own pairs are
seen by the client alone.
"""

"""Preference data: shapes, sources, partitions, and the built-in synthetic federation."""

from fedpdpo_secure.data.federation import load_federation
from fedpdpo_secure.data.pairs import PUBLIC_CLIENT, SPLITS, DataError, Federation, PreferencePair

__all__ = ["PUBLIC_CLIENT", "SPLITS", "DataError", "Federation", "PreferencePair", "load_federation"]

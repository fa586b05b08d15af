"""What clients sign in malicious-server mode: their keys of a round, and the one survivor list they will answer for."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from secagg.config import PROTOCOL, RoundConfig


def keys_statement(config: RoundConfig, client: int, channel_key: bytes, mask_key: bytes) -> bytes:
    """Both keys of one client, bound to session, round and configuration."""
    return PROTOCOL + b"sign keys" + config.digest() + struct.pack(">I", client) + channel_key + mask_key


def survivors_statement(config: RoundConfig, roster: bytes, survivors: Sequence[int]) -> bytes:
    """U3 together with the hash of all keys of U1 (`graph.roster_hash`), bound to the round and its model."""
    ids = struct.pack(f">I{len(survivors)}I", len(survivors), *survivors)
    return PROTOCOL + b"sign survivors" + config.binding() + roster + ids

"""The long-term keys that clients sign with in malicious-server mode, read from the folder of `fedpdpo keys make`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedpdpo_secure.config import Config, ConfigError
from fedpdpo_secure.config.masking import mode_of
from secagg import Mode, SigningKey
from secagg.identity import Roster
from secagg.identity_files import ROSTER_NAME, key_name, read_roster, read_signing_key


@dataclass(frozen=True, slots=True)
class Identities:
    """The roster of the federation, and (in a simulation, where all clients are in one process) everyone's keys."""

    roster: Roster
    keys: dict[int, SigningKey]


def load_identities(config: Config) -> Identities | None:
    """The roster and keys in `secagg.identities`, or None where nothing is signed.

    Raises ConfigError in one line: a missing or wrong file, or a roster of other clients than 0..clients-1.
    """
    section, clients = config.secagg, config.federation.clients
    if not section.enabled or mode_of(config) is not Mode.MALICIOUS_SERVER:
        return None
    assert section.identities is not None  # checked with the configuration
    folder = Path(section.identities)
    try:
        roster = read_roster(folder / ROSTER_NAME)
        if roster.clients != tuple(range(clients)):
            raise ValueError(
                f"{folder / ROSTER_NAME} is of {len(roster.clients)} clients, federation.clients is {clients}"
            )
        keys = {client: read_signing_key(folder / key_name(client, clients)) for client in roster.clients}
        for client, identity in zip(roster.clients, roster.identities, strict=True):
            if keys[client].public != identity:
                raise ValueError(
                    f"{folder / key_name(client, clients)} is not the key of client {client} in the roster"
                )
    except (OSError, ValueError) as error:
        raise ConfigError(f"secagg.identities: {error}") from error
    return Identities(roster, keys)

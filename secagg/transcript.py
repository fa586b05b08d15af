"""The transcript of a round: what happened, for people who were not there, and without a secret in it.

    recorder = Recorder(config)
    local = LocalRound(config, drops, tap=recorder)
    try:
        ... open, submit ...
        lines = recorder.finish(local.finish())
    except SecAggError as error:
        write_transcript(path, recorder.abort(type(error).__name__))
        raise
    write_transcript(path, lines)

Whoever holds the file checks it with `transcript_check.check`. It tells who took part, who dropped out where, and
how many bytes moved: share it with people who may know that.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg.config import RoundConfig
from secagg.errors import BadMessage, PeerMisbehaved, WrongPhase
from secagg.graph import roster_hash
from secagg.local import SERVER, RoundSum
from secagg.messages import Advertise, Consent, Message, Reveal, Shares, UnmaskRequest
from secagg.transcript_lines import to_lines
from secagg.transcript_record import (
    DIRECTIONS,
    Aborted,
    Carried,
    Released,
    Revealed,
    Shared,
    Traffic,
    Transcript,
    header_of,
)  # fmt: skip

MAX_BYTES = 64 * 2**20
"""A larger file is refused unread; a complete graph of 2000 clients needs about 20 MB."""


class Recorder:
    """Takes in one round's messages as `LocalRound`'s tap and gives the lines of its transcript, once.

    Of a message it keeps ids, public keys, signatures, commitments and its size. A server with a network calls
    it with what it accepted and sent. Raises PeerMisbehaved for a second, different survivor list.
    """

    def __init__(self, config: RoundConfig) -> None:
        self._config: RoundConfig | None = config
        self._keys: dict[int, Advertise] = {}
        self._shares: dict[int, Shared] = {}
        self._survivors: tuple[int, ...] | None = None
        self._consents: dict[int, Consent] = {}
        self._reveals: dict[int, Revealed] = {}
        self._sizes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))

    def bind(self, model: bytes) -> None:
        """The hash (32 bytes) of a model that became known after the keys; see `Client.bind`."""
        self._config = replace(self._open(), model=model)

    def __call__(self, source: int, destination: int, message: Message, size: int) -> None:
        """One message that arrived, and its bytes on the wire. Raises WrongPhase after `finish` or `abort`."""
        self._open()
        self._sizes[type(message).__name__][destination if source == SERVER else source] += size
        match message:
            case Advertise(client):
                self._keys.setdefault(client, message)
            case Shares(client, commitment, sealed):
                self._shares.setdefault(client, Shared(client, commitment, len(sealed)))
            case UnmaskRequest(survivors):
                if self._survivors not in (None, survivors):
                    raise PeerMisbehaved("the server asks about two survivor lists in one round")
                self._survivors = survivors
            case Consent(client):
                self._consents.setdefault(client, message)
            case Reveal(client, self_mask_seeds, mask_secrets):
                owners = tuple(share.owner for share in self_mask_seeds), tuple(share.owner for share in mask_secrets)
                self._reveals.setdefault(client, Revealed(client, *owners))
            case _:
                pass  # of the others the size is all that is kept

    def finish(self, total: RoundSum) -> list[str]:
        """The lines of a round that gave a sum."""
        return self._lines(Released(sum_hash(total.vector), len(total.survivors), total.dropped, total.misfits))

    def abort(self, error: str) -> list[str]:
        """The lines of a round that ended without one; `error` is the name of the error's class and no more.

        Raises ValueError for anything but a name: an error's text may quote what a client sent.
        """
        if not (error.isidentifier() and error.isascii() and len(error) <= 64):
            raise ValueError("error must be the name of a class, at most 64 letters")
        return self._lines(Aborted(error))

    def _lines(self, outcome: Released | Aborted) -> list[str]:
        config, self._config = self._open(), None
        keys = [key for _, key in sorted(self._keys.items())]
        submitted = tuple(sorted(self._sizes["MaskedVector"]))
        transcript = Transcript(
            header=header_of(config),
            keys=tuple(keys),
            roster_hash=roster_hash(config, [key.client for key in keys], b"".join(key.key_hash() for key in keys)),
            shares=tuple(shared for _, shared in sorted(self._shares.items())),
            survivors=submitted if self._survivors is None else self._survivors,
            consents=tuple(consent for _, consent in sorted(self._consents.items())) if config.malicious else None,
            reveals=tuple(revealed for _, revealed in sorted(self._reveals.items())),
            messages=tuple(
                Traffic(name, direction, tuple(sorted(sizes)), sum(sizes.values()))
                for name, direction in DIRECTIONS.items()
                if (sizes := self._sizes.get(name))
            ),
            clients=tuple(
                Carried(client, self._carried(client, "upload"), self._carried(client, "download"))
                for client in config.clients
            ),
            outcome=outcome,
        )
        return to_lines(transcript)

    def _carried(self, client: int, direction: str) -> int:
        return sum(sizes.get(client, 0) for name, sizes in self._sizes.items() if DIRECTIONS[name] == direction)

    def _open(self) -> RoundConfig:
        if self._config is None:
            raise WrongPhase("this transcript is finished")
        return self._config


def sum_hash(vector: NDArray[np.int64]) -> bytes:
    """SHA-256 of a sum, int64[dim], as little-endian bytes."""
    return hashlib.sha256(np.ascontiguousarray(vector, "<i8").data).digest()


def transcript_path(folder: Path, round_index: int) -> Path:
    """Where the transcript of a round of a run lies: `round-0001.jsonl` in `folder`."""
    return folder / f"round-{round_index:04d}.jsonl"


def write_transcript(path: Path, lines: Sequence[str]) -> None:
    """Write a whole file (mode 0644, it is made to be shared) or nothing; folders are made, an old file replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="ascii", newline="\n") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fchmod(descriptor, 0o644)  # whatever the umask is
            os.fsync(descriptor)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_transcript(path: Path) -> list[str]:
    """The lines of a file. Raises BadMessage, naming it, for what `write_transcript` could not have written."""
    if not path.is_file():
        raise BadMessage(f"{path}: is not a file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadMessage(f"{path}: is longer than {MAX_BYTES} bytes")
    if not data.isascii() or not data.endswith(b"\n"):
        raise BadMessage(f"{path}: is not lines of ASCII, each ended by a newline")
    return data.decode("ascii")[:-1].split("\n")

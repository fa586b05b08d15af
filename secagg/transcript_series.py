"""The transcripts of one run, side by side: what must hold between rounds, and what their sums together may show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

from secagg.config import RoundConfig
from secagg.transcript_check import Checked
from secagg.transcript_record import Transcript


def series_findings(rounds: Sequence[Checked]) -> tuple[str, ...]:
    """What is wrong between the rounds of one run, in order of their files; those without a valid head are skipped.

    Found: a session and round used twice, a public key used in two rounds, and clients, identities or a mode that
    change from one round to the next.
    """
    return (*_repeated(rounds), *_changed(rounds))


def series_warnings(rounds: Sequence[Checked]) -> tuple[str, ...]:
    """What no single transcript shows and what is no fault of the protocol: sums to subtract, and gaps."""
    return (*_subtractable(rounds), *_gaps(rounds))


def _known(rounds: Sequence[Checked]) -> list[tuple[RoundConfig, Transcript]]:
    return [(one.config, one.transcript) for one in rounds if one.config is not None and one.transcript is not None]


def _repeated(rounds: Sequence[Checked]) -> Iterator[str]:
    sessions: set[tuple[bytes, int]] = set()
    users: dict[bytes, tuple[int, int]] = {}
    for config, transcript in _known(rounds):
        name, place = (config.session, config.round_index), f"round {config.round_index}"
        if name in sessions:
            yield f"{place}: its session and index are those of another round"
            continue  # then its keys are as well
        sessions.add(name)
        for entry in transcript.keys:
            for key in (entry.channel_key, entry.mask_key):
                index, client = users.setdefault(key, (config.round_index, entry.client))
                if index != config.round_index:
                    yield f"{place}: client {entry.client} uses a public key of client {client} in round {index}"


def _changed(rounds: Sequence[Checked]) -> Iterator[str]:
    for (before, _), (after, _) in pairwise(_known(rounds)):
        place = f"round {after.round_index}"
        if after.clients != before.clients:
            yield f"{place}: its clients are not those of round {before.round_index}"
        if after.mode is not before.mode:
            yield f"{place}: {after.mode.value} mode follows {before.mode.value} mode in round {before.round_index}"
        elif after.clients == before.clients and after.identities != before.identities:
            yield f"{place}: its identities are not those of round {before.round_index}"


def _subtractable(rounds: Sequence[Checked]) -> Iterator[str]:
    """So et al., "Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage", AAAI 2023."""
    sums = [
        (config, frozenset(transcript.survivors))
        for one in rounds
        if one.sum_sha256 is not None
        for config, transcript in _known([one])
    ]
    close: list[tuple[int, int, int]] = []
    for (first, one_set), (second, other_set) in combinations(sums, 2):
        apart = len(one_set ^ other_set)
        if 0 < apart < max(first.min_survivors, second.min_survivors):
            close.append((apart, first.round_index, second.round_index))
    if close:
        apart, first_index, second_index = min(close)
        yield (
            f"{len(close)} of {len(sums) * (len(sums) - 1) // 2} pairs of sums are over survivors that differ by fewer "
            f"than min_survivors clients (rounds {first_index} and {second_index}: by {apart}): one sum less the other "
            "shows what those few sent, as far as the vectors of the rest stayed the same; noise alone bounds that"
        )


def _gaps(rounds: Sequence[Checked]) -> Iterator[str]:
    for (before, _), (after, _) in pairwise(_known(rounds)):
        if after.round_index > before.round_index + 1:
            yield f"there is no transcript of any round between {before.round_index} and {after.round_index}"

"""What must hold in a transcript, rule by rule: each is a function from a `View` to what is wrong, in one line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from secagg.config import PROTOCOL
from secagg.errors import PeerMisbehaved
from secagg.identity import verify
from secagg.keys import has_small_order
from secagg.statements import keys_statement, survivors_statement
from secagg.transcript_record import DIRECTIONS, VERSION, Aborted, Header, Released
from secagg.transcript_view import View, expected_size, last_stage, owners


@dataclass(frozen=True, slots=True)
class Rule:
    """A guarantee. `text` says what holds if `findings` gives nothing."""

    name: str
    text: str
    findings: Callable[[View], Iterator[str]]
    malicious: bool = False  # only malicious-server mode gives it
    released: bool = False  # only a round with a sum gives it


def header_findings(header: Header) -> Iterator[str]:
    """The configuration against its own digests; an invalid one gives one finding."""
    if header.version != VERSION:
        yield f"the file has version {header.version}, this is version {VERSION}"
    if header.protocol != PROTOCOL.decode("ascii"):
        yield f"the protocol is {header.protocol!r}, this is {PROTOCOL.decode('ascii')!r}"
    try:
        config = header.round_config()
    except ValueError as error:
        yield f"the configuration is invalid: {error}"
        return
    if config.digest() != header.digest:
        yield "the digest is not that of the configuration"
    if config.binding() != header.binding:
        yield "the binding is not that of the configuration and the model"


def roster_findings(view: View, roster: Mapping[int, bytes]) -> Iterator[str]:
    """The clients and their identities against a roster from elsewhere; a round is of all who are on it."""
    missing = sorted(roster.keys() - set(view.config.clients))
    if missing:
        yield f"clients {_some(missing)} of the roster are not among the clients of this round"
    for client in view.config.clients:
        if client not in roster:
            yield f"client {client} is not in the roster"
        elif view.config.malicious and roster[client] != view.config.identity(client):
            yield f"client {client} has another identity in the roster"


def _keys(view: View) -> Iterator[str]:
    seen: dict[bytes, int] = {}
    yield from _unsigned(view)
    for entry in view.transcript.keys:
        for key in (entry.channel_key, entry.mask_key):
            if key in seen:
                yield f"client {entry.client} repeats a public key, that of client {seen[key]}"
            seen.setdefault(key, entry.client)
            if has_small_order(key):
                yield f"client {entry.client} has a public key of small order"


def _signed_keys(view: View) -> Iterator[str]:
    config = view.config
    for entry in view.transcript.keys:
        if entry.client in view.roster:
            statement = keys_statement(config, entry.client, entry.channel_key, entry.mask_key)
            identity = config.identity(entry.client)
            yield from _refusal(identity, entry.signature, statement, client=entry.client, what="public keys")


def _unsigned(view: View) -> Iterator[str]:
    for entry in view.transcript.keys:
        if bool(entry.signature) != view.config.malicious:
            yield f"client {entry.client}: keys are signed in malicious-server mode, and only there"


def _refusal(identity: bytes, signature: bytes, statement: bytes, *, client: int, what: str) -> Iterator[str]:
    try:
        verify(identity, signature, statement, signer=client, what=what)
    except PeerMisbehaved as error:
        yield str(error)


def _graph(view: View) -> Iterator[str]:
    if view.transcript.roster_hash != view.roster_hash:
        yield "the roster hash is not that of the public keys"
    for shared in view.transcript.shares:
        if shared.sealed != len(view.neighbors_of(shared.client)):
            count = len(view.neighbors_of(shared.client))
            yield f"client {shared.client} sealed {shared.sealed} pairs of shares for {count} neighbours"
    for client in sorted(view.sharers & view.advertised):
        if len(view.holders_of(client)) < view.config.threshold:
            yield f"client {client} shared its secrets among {len(view.holders_of(client))} holders"


def _sets(view: View) -> Iterator[str]:
    config, malicious = view.config, view.config.malicious
    yield from _outside(view.advertised, view.roster, "advertised keys but is not in the roster")
    yield from _outside(view.sharers, view.advertised, "shared secrets but advertised no keys")
    yield from _outside(view.survivors, view.shared, "is counted a survivor but is not in U2")
    yield from _outside(view.consented, view.survivors, "signed the survivor list but is not in it")
    asked = view.consented if malicious else view.survivors
    yield from _outside(view.revealed, asked, "answered but was not asked")
    over = isinstance(view.transcript.outcome, Released)
    stages = (
        ("advertised keys", view.advertised, over or view.sharers, config.least_advertised),
        ("shared their secrets", view.shared, over or view.survivors, config.quorum),
        ("sent a masked vector", view.survivors, over or view.consented or view.revealed, config.quorum),
        ("signed the survivor list", view.consented, malicious and (over or view.revealed), config.threshold),
        ("answered the request to unmask", view.revealed, over, config.threshold),
    )
    for what, clients, went_on, needed in stages:
        if went_on and len(clients) < needed:
            yield f"{len(clients)} clients {what}, at least {needed} are needed, and the round went on"


def _outside(clients: Collection[int], allowed: Collection[int], what: str) -> Iterator[str]:
    for client in sorted(set(clients) - set(allowed)):
        yield f"client {client} {what}"


def _one_kind(view: View) -> Iterator[str]:
    seeds: Counter[int] = Counter()
    secrets: Counter[int] = Counter()
    for client, revealed in view.revealed.items():
        alive = owners(view, client) & view.survivors
        lost = owners(view, client) - view.survivors
        seeds.update(revealed.self_mask_seeds)
        secrets.update(revealed.mask_secrets)
        for given, right, what in (
            (revealed.self_mask_seeds, alive, "self-mask seeds"),
            (revealed.mask_secrets, lost, "mask secrets"),
        ):
            if frozenset(given) != right:
                wrong = sorted(right.symmetric_difference(given))
                yield f"client {client} answered wrongly for the {what} of {_some(wrong)}"
    for owner in sorted(seeds.keys() & secrets.keys()):
        yield f"shares of both secrets of client {owner} were released: its vector may be open"


def _some(clients: list[int]) -> str:
    return ", ".join(map(str, clients[:5])) + (", ..." if len(clients) > 5 else "")


def _recoverable(view: View) -> Iterator[str]:
    outcome = view.transcript.outcome
    misfits = outcome.misfits if isinstance(outcome, Released) else ()
    held: Counter[int] = Counter()
    for revealed in view.revealed.values():
        held.update(revealed.self_mask_seeds + revealed.mask_secrets)
    for holder, owner in misfits:
        answer = view.revealed.get(holder)
        if answer is None or owner not in answer.self_mask_seeds + answer.mask_secrets:
            yield f"client {holder} gave no share of client {owner} that could have been left out"
        held[owner] -= 1
    if list(misfits) != sorted(set(misfits), key=lambda pair: (pair[1], pair[0])):
        yield "the shares left out are not distinct and in order"
    for owner in sorted(view.shared):
        needed = owner in view.survivors or view.neighbors_of(owner) & view.survivors
        if needed and held[owner] < view.config.threshold:
            yield f"{held[owner]} holders answered for client {owner}, at least {view.config.threshold} are needed"


def _consents(view: View) -> Iterator[str]:
    config = view.config
    statement = survivors_statement(config, view.roster_hash, view.transcript.survivors)
    for consent in view.transcript.consents or ():
        if consent.client in view.roster:
            identity = config.identity(consent.client)
            yield from _refusal(identity, consent.signature, statement, client=consent.client, what="survivor list")
    for client in sorted(view.revealed):
        signed = len(view.holders_of(client) & view.consented)
        if signed < config.threshold:
            yield f"client {client} answered though {signed} holders of its shares signed, not {config.threshold}"


def _holders(view: View) -> Iterator[str]:
    for client in sorted(view.consented | view.revealed.keys()):
        holders = len(view.holders_of(client) & view.survivors)
        if holders < view.config.threshold:
            yield f"client {client} went on with {holders} holders of its shares in U3, not {view.config.threshold}"


def _bytes(view: View) -> Iterator[str]:
    transcript = view.transcript
    seen = [traffic.message for traffic in transcript.messages]
    if seen != [name for name in DIRECTIONS if name in seen]:
        yield "the messages are not each listed once, in the order of the protocol"
        return
    sizes: dict[str, Counter[int]] = {"upload": Counter(), "download": Counter()}
    bounds = _bounds(view)
    for traffic in transcript.messages:
        name, clients = traffic.message, frozenset(traffic.clients)
        if traffic.direction != DIRECTIONS[name] or not clients:
            yield f"{name}: not an {DIRECTIONS[name]} of at least one client"
        expected = {client: expected_size(view, name, client) for client in clients}
        sizes[DIRECTIONS[name]].update(expected)
        if traffic.size != sum(expected.values()):
            yield f"{name}: {traffic.size} bytes recorded, its format gives {sum(expected.values())}"
    carried = {traffic.message: frozenset(traffic.clients) for traffic in transcript.messages}
    for name, (least, most) in bounds.items():
        clients = carried.get(name, frozenset())
        if not least <= clients <= most:
            wrong = sorted((least - clients) | (clients - most))
            yield f"{name}: does not fit what clients {_some(wrong)} did in the round"
    if [one.client for one in transcript.clients] != list(view.config.clients):
        yield "the bytes are not those of the clients of the roster"
    for one in transcript.clients:
        for direction, recorded in (("upload", one.upload), ("download", one.download)):
            if recorded != sizes[direction][one.client]:
                right = sizes[direction][one.client]
                yield f"client {one.client}: {recorded} bytes of {direction} recorded, its messages give {right}"


def _bounds(view: View) -> dict[str, tuple[frozenset[int], frozenset[int]]]:
    """Who at least and at most sent or was sent each message: a client answers only what it received."""
    revealed = frozenset(view.revealed)
    asked = view.consented if view.config.malicious else revealed
    nobody: frozenset[int] = frozenset()
    return {
        "Advertise": (view.advertised, view.advertised),
        "PeerKeys": (view.sharers, view.advertised),
        "Shares": (view.sharers, view.sharers),
        "Delivery": (view.survivors, view.shared),
        "MaskedVector": (view.survivors, view.survivors),
        "UnmaskRequest": (asked, view.survivors),
        "Consent": (view.consented, view.consented),
        "Consents": (revealed, view.consented) if view.config.malicious else (nobody, nobody),
        "Reveal": (revealed, revealed),
    }


def _outcome(view: View) -> Iterator[str]:
    outcome = view.transcript.outcome
    if isinstance(outcome, Aborted):
        return
    if outcome.survivors != len(view.survivors):
        yield f"the sum is of {outcome.survivors} vectors, the survivor list has {len(view.survivors)}"
    found = {client: stage for client in view.config.clients if (stage := last_stage(view, client)) is not None}
    given = dict(outcome.dropped)
    for client in sorted({**found, **given}):
        if found.get(client) is not given.get(client):
            right = found[client].value if client in found else "never"
            told = given[client].value if client in given else "never"
            yield f"client {client} dropped out: {told} recorded, its messages say {right}"


RULES: tuple[Rule, ...] = (
    Rule("keys", "all public keys of the round differ, and none is of small order", _keys),
    Rule(
        "signed keys",
        "each client's public keys carry its signature for this configuration",
        _signed_keys,
        malicious=True,
    ),
    Rule(
        "graph", "a hash of all public keys says who exchanges with whom; each shared with just its neighbours", _graph
    ),
    Rule("sets", "U3 is in U2, U2 in U1, U1 in the roster, and each was large enough to go on", _sets),
    Rule("holders", "whoever signed or answered had enough holders of its own shares in U3", _holders),
    Rule(
        "one kind", "each client answered for just its neighbours, and of each one secret alone was released", _one_kind
    ),
    Rule(
        "consents",
        "U3, all keys and the model are signed by enough holders for each that answered",
        _consents,
        malicious=True,
    ),
    Rule(
        "recoverable", "every secret that the sum needed was held by enough who answered", _recoverable, released=True
    ),
    Rule("bytes", "every message has the size of its format, and nobody answered what it was not sent", _bytes),
    Rule("sum", "one sum, over U3, and every drop-out stands where its messages stop", _outcome, released=True),
)

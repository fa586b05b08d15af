"""A transcript as the lines of a file, and back: each is an object with `index`, `kind`, `previous` and its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields as dataclass_fields

from secagg.config import IDENTITY_BYTES, Mode, Stage
from secagg.errors import BadMessage
from secagg.graph import HASH_BYTES
from secagg.identity import SIGNATURE_BYTES
from secagg.keys import PUBLIC_KEY_BYTES
from secagg.messages import COMMITMENT_BYTES, Advertise, Consent
from secagg.transcript_json import (
    GENESIS,
    by_client,
    chained,
    fields,
    ids,
    integer,
    line_hash,
    objects,
    octets,
    one_of,
    parse_line,
    text,
)  # fmt: skip
from secagg.transcript_record import (
    Aborted,
    Carried,
    Header,
    Released,
    Revealed,
    Shared,
    Traffic,
    Transcript,
    kinds_of,
)  # fmt: skip

_ORDERS = frozenset(kinds_of(consents=c, aborted=a) for c in (False, True) for a in (False, True))
_STAGES = {stage.value: stage for stage in Stage}
_MODES = {mode.value: mode for mode in Mode}
_CONFIG = tuple(one.name for one in dataclass_fields(Header))


def to_lines(transcript: Transcript) -> list[str]:
    """The lines of a file, without newlines."""
    return chained((kind, _values(kind, transcript)) for kind in _kinds(transcript))


def from_lines(lines: Sequence[str]) -> tuple[Transcript | None, tuple[str, ...]]:
    """What the lines say, and what is wrong with their chain, numbering, order and count.

    None if they are not the lines of one transcript in their order. Raises BadMessage naming the line if one
    of them is no line of a transcript at all.
    """
    kinds: list[str] = []
    bodies: dict[str, dict[str, object]] = {}
    problems: list[str] = []
    previous = GENESIS
    for place, line in enumerate(lines):
        where = f"line {place + 1}"
        values = parse_line(line, where)
        index = integer(values.pop("index", None), f"{where}: index")
        before = octets(values.pop("previous", None), (HASH_BYTES,), f"{where}: previous").hex()
        kinds.append(text(values.pop("kind", None), f"{where}: kind"))
        bodies[kinds[-1]] = values
        if index != place:
            problems.append(f"{where} is numbered {index}, not {place}")
        if before != previous:
            problems.append(f"{where} does not follow the one before it: `previous` is not that line's hash")
        previous = line_hash(line)
    if tuple(kinds) not in _ORDERS:
        told = ", ".join(kind if kind.isidentifier() else ascii(kind) for kind in kinds[:20])
        return None, (*problems, f"the lines are {told}: not those of one round in their order")
    count = integer(fields(bodies["end"], ("count",), "end")["count"], "end.count")
    if count != len(lines):
        problems.append(f"the last line counts {count} lines, there are {len(lines)}")
    return _transcript(bodies), tuple(problems)


def _kinds(transcript: Transcript) -> tuple[str, ...]:
    return kinds_of(consents=transcript.consents is not None, aborted=isinstance(transcript.outcome, Aborted))


def _values(kind: str, transcript: Transcript) -> Mapping[str, object]:
    match kind, transcript.outcome:
        case "config", _:
            return _config_values(transcript.header)
        case "keys", _:
            return {
                "entries": [_key_values(key) for key in transcript.keys],
                "roster_hash": transcript.roster_hash.hex(),
            }
        case "shares", _:
            shares = transcript.shares
            entries = [{"client": s.client, "commitment": s.commitment.hex(), "sealed": s.sealed} for s in shares]
            return {"entries": entries}
        case "survivors", _:
            return {"clients": transcript.survivors}
        case "consents", _:
            consents = transcript.consents or ()
            return {"entries": [{"client": c.client, "signature": c.signature.hex()} for c in consents]}
        case "reveals", _:
            entries = [
                {"client": r.client, "self_mask_seeds": r.self_mask_seeds, "mask_secrets": r.mask_secrets}
                for r in transcript.reveals
            ]
            return {"entries": entries}
        case "bytes", _:
            messages = [
                {"message": m.message, "direction": m.direction, "clients": m.clients, "bytes": m.size}
                for m in transcript.messages
            ]
            clients = [{"client": c.client, "upload": c.upload, "download": c.download} for c in transcript.clients]
            return {"messages": messages, "clients": clients}
        case "sum", Released(sha256, survivors, dropped, misfits):
            return {
                "sha256": sha256.hex(),
                "survivors": survivors,
                "dropped": [{"client": client, "stage": stage.value} for client, stage in dropped],
                "misfits": [{"holder": holder, "owner": owner} for holder, owner in misfits],
            }
        case "aborted", Aborted(error):
            return {"error": error}
    return {"count": len(_kinds(transcript))}


def _key_values(key: Advertise) -> dict[str, object]:
    public = {"channel_key": key.channel_key.hex(), "mask_key": key.mask_key.hex()}
    return {"client": key.client, **public, "signature": key.signature.hex()}


def _config_values(header: Header) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(header, name) for name in _CONFIG}
    values["mode"] = header.mode.value
    values["identities"] = [identity.hex() for identity in header.identities]
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def _transcript(lines: Mapping[str, dict[str, object]]) -> Transcript:
    keys = fields(lines["keys"], ("entries", "roster_hash"), "keys")
    carried = fields(lines["bytes"], ("messages", "clients"), "bytes")
    survivors = fields(lines["survivors"], ("clients",), "survivors")
    return Transcript(
        header=_header(fields(lines["config"], _CONFIG, "config")),
        keys=_keys(keys["entries"]),
        roster_hash=octets(keys["roster_hash"], (HASH_BYTES,), "keys.roster_hash"),
        shares=_shares(_entries(lines["shares"], "shares")),
        survivors=ids(survivors["clients"], "survivors.clients"),
        consents=_consents(_entries(lines["consents"], "consents")) if "consents" in lines else None,
        reveals=_reveals(_entries(lines["reveals"], "reveals")),
        messages=_traffic(carried["messages"]),
        clients=_carried(carried["clients"]),
        outcome=_released(lines["sum"]) if "sum" in lines else _aborted(lines["aborted"]),
    )


def _header(v: Mapping[str, object]) -> Header:
    identities = v["identities"]
    if not isinstance(identities, list):
        raise BadMessage("config.identities must be a list")
    return Header(
        version=integer(v["version"], "config.version"),
        protocol=text(v["protocol"], "config.protocol"),
        session=octets(v["session"], (16,), "config.session"),
        round_index=integer(v["round_index"], "config.round_index"),
        clients=ids(v["clients"], "config.clients"),
        threshold=integer(v["threshold"], "config.threshold"),
        min_survivors=integer(v["min_survivors"], "config.min_survivors"),
        bits=integer(v["bits"], "config.bits"),
        dim=integer(v["dim"], "config.dim"),
        neighbors=None if v["neighbors"] is None else integer(v["neighbors"], "config.neighbors"),
        least_present=None if v["least_present"] is None else integer(v["least_present"], "config.least_present"),
        mode=_MODES[one_of(v["mode"], _MODES, "config.mode")],
        identities=tuple(octets(identity, (IDENTITY_BYTES,), "config.identities") for identity in identities),
        context=octets(v["context"], (32,), "config.context"),
        model=octets(v["model"], (32,), "config.model"),
        digest=octets(v["digest"], (32,), "config.digest"),
        binding=octets(v["binding"], (32,), "config.binding"),
    )


def _entries(line: dict[str, object], kind: str) -> object:
    return fields(line, ("entries",), kind)["entries"]


def _keys(value: object) -> tuple[Advertise, ...]:
    place = "keys.entries"
    return tuple(
        Advertise(
            client,
            octets(e["channel_key"], (PUBLIC_KEY_BYTES,), place),
            octets(e["mask_key"], (PUBLIC_KEY_BYTES,), place),
            octets(e["signature"], (0, SIGNATURE_BYTES), place),
        )
        for client, e in by_client(value, ("channel_key", "mask_key", "signature"), place)
    )


def _shares(value: object) -> tuple[Shared, ...]:
    place = "shares.entries"
    return tuple(
        Shared(client, octets(e["commitment"], (COMMITMENT_BYTES,), place), integer(e["sealed"], place))
        for client, e in by_client(value, ("commitment", "sealed"), place)
    )


def _consents(value: object) -> tuple[Consent, ...]:
    place = "consents.entries"
    return tuple(
        Consent(client, octets(e["signature"], (SIGNATURE_BYTES,), place))
        for client, e in by_client(value, ("signature",), place)
    )


def _reveals(value: object) -> tuple[Revealed, ...]:
    place = "reveals.entries"
    return tuple(
        Revealed(client, ids(e["self_mask_seeds"], place), ids(e["mask_secrets"], place))
        for client, e in by_client(value, ("self_mask_seeds", "mask_secrets"), place)
    )


def _traffic(value: object) -> tuple[Traffic, ...]:
    at = "bytes.messages"
    return tuple(
        Traffic(text(m["message"], at), text(m["direction"], at), ids(m["clients"], at), integer(m["bytes"], at))
        for m in objects(value, ("message", "direction", "clients", "bytes"), at)
    )


def _carried(value: object) -> tuple[Carried, ...]:
    place = "bytes.clients"
    return tuple(
        Carried(client, integer(e["upload"], place), integer(e["download"], place))
        for client, e in by_client(value, ("upload", "download"), place)
    )


def _released(line: dict[str, object]) -> Released:
    v = fields(line, ("sha256", "survivors", "dropped", "misfits"), "sum")
    return Released(
        sha256=octets(v["sha256"], (32,), "sum.sha256"),
        survivors=integer(v["survivors"], "sum.survivors"),
        dropped=tuple(
            (client, _STAGES[one_of(e["stage"], _STAGES, "sum.dropped")])
            for client, e in by_client(v["dropped"], ("stage",), "sum.dropped")
        ),
        misfits=tuple(
            (integer(e["holder"], "sum.misfits"), integer(e["owner"], "sum.misfits"))
            for e in objects(v["misfits"], ("holder", "owner"), "sum.misfits")
        ),
    )


def _aborted(line: dict[str, object]) -> Aborted:
    error = text(fields(line, ("error",), "aborted")["error"], "aborted.error")
    if not error.isidentifier():
        raise BadMessage("aborted.error must be the name of a class")
    return Aborted(error)

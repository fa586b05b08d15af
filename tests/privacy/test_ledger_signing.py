"""A signed ledger: whoever lacks the owner's key can neither write it nor rewrite it unnoticed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import epsilon
from privacy.errors import LedgerBroken, LedgerError, LedgerMismatch
from privacy.events import FullBatchGaussian, IntegerGaussian, NonPrivate
from privacy.ledger import CommitMismatch, Ledger, show, verify
from privacy.ledger_record import GENESIS, UNITS, Header, Reserve, Signer, seal
from privacy.ledger_signing import OWNER_KEY, check_public_key, make_key, owner_key, public_hex, read_key
from privacy.ledger_store import parse

from .ledger_builders import DELTA, ROUND

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
TIME = "2026-01-01T00:00:00+00:00"


def opened(path: Path, *, key: Ed25519PrivateKey | None = KEY, unit: str | None = None) -> Ledger:
    return Ledger.open(path, budget_epsilon=3.0, delta=DELTA, data_id="demo", client="anna", key=key, unit=unit)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        ledger.commit(ledger.reserve(ROUND, "run", 1), ROUND)
    return path


def test_every_record_is_signed_and_the_header_names_the_key(signed: Path) -> None:
    lines = [json.loads(line) for line in signed.read_bytes().splitlines()]
    assert lines[0]["body"]["public_key"] == public_hex(KEY)
    for line in lines:
        KEY.public_key().verify(bytes.fromhex(line["sig"]), b"fedpdpo/ledger/v2/record/" + line["hash"].encode())
    checked = verify(signed)
    assert checked.ok
    assert checked.public_key == public_hex(KEY)


@pytest.mark.parametrize("key", [None, OTHER], ids=["no key", "another key"])
def test_a_signed_ledger_is_not_continued_without_its_key(signed: Path, key: Ed25519PrivateKey | None) -> None:
    before = signed.read_bytes()
    with pytest.raises(LedgerMismatch, match="is signed with the key"):
        opened(signed, key=key)
    assert signed.read_bytes() == before


def rewritten(data: bytes, key: Ed25519PrivateKey | None) -> bytes:
    """All records but the last two, with right hashes, signed by `key`: an owner's history without its charge."""
    header = parse(data).records[0].body
    return seal(header, seq=0, prev_hash=GENESIS, time=TIME, key=key)[1]


def test_a_history_written_anew_without_the_key_is_refused(signed: Path) -> None:
    data = signed.read_bytes()
    for key in (None, OTHER):
        signed.write_bytes(rewritten(data, key))
        assert not verify(signed).ok
        with pytest.raises(LedgerBroken, match="line 1"):
            opened(signed)


@pytest.mark.parametrize("edit", ["removed", "of another record", "one bit", "upper case", "not text"])
def test_a_spoilt_signature_is_refused(signed: Path, edit: str) -> None:
    lines = [json.loads(line) for line in signed.read_bytes().splitlines()]
    signature = lines[1]["sig"]
    if edit == "removed":
        del lines[1]["sig"]
    else:
        lines[1]["sig"] = {
            "of another record": lines[0]["sig"],
            "one bit": signature[:-1] + format(int(signature[-1], 16) ^ 1, "x"),
            "upper case": signature.upper(),
            "not text": 5,
        }[edit]
    spoilt = [json.dumps(line, sort_keys=True, separators=(",", ":")) for line in lines]
    with pytest.raises(LedgerBroken, match="line 2"):
        parse("".join(line + "\n" for line in spoilt).encode())


def test_a_signature_in_an_unsigned_ledger_is_refused() -> None:
    line = seal(Header("anna", "demo", 1.0, DELTA), seq=0, prev_hash=GENESIS, time=TIME, key=KEY)[1]
    with pytest.raises(LedgerBroken, match="is signed in an unsigned ledger"):
        parse(line)


def test_an_unsigned_ledger_is_signed_from_the_first_opening_with_a_key(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path, key=None) as ledger:
        ledger.reserve(ROUND, "run", 1)
    with opened(path) as ledger:
        assert [record.kind for record in ledger.records] == ["header", "reserve", "signer"]
        ledger.reserve(ROUND, "run", 2)
    with opened(path) as ledger:
        assert [record.signature is not None for record in ledger.records] == [False, False, True, True]
    assert verify(path).ok
    assert list(show(path))[2].detail == f"signed from here on with {public_hex(KEY)}"
    with pytest.raises(LedgerMismatch):
        opened(path, key=None)


def test_a_ledger_has_one_signer(signed: Path) -> None:
    records = parse(signed.read_bytes()).records
    second = seal(Signer(public_hex(OTHER)), seq=3, prev_hash=records[-1].hash, time=TIME, key=OTHER)[1]
    with pytest.raises(LedgerBroken, match="line 4: names a signer, but the ledger has one"):
        parse(signed.read_bytes() + second)


# ---- key files


def test_a_key_file_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    assert owner_key(tmp_path) is None
    made = make_key(tmp_path / OWNER_KEY)
    assert (tmp_path / OWNER_KEY).stat().st_mode & 0o777 == 0o600
    found = owner_key(tmp_path)
    assert found is not None
    assert public_hex(found) == public_hex(made)
    with pytest.raises(LedgerError, match="never overwritten"):
        make_key(tmp_path / OWNER_KEY)
    (tmp_path / OWNER_KEY).chmod(0o640)
    with pytest.raises(LedgerError, match="mode 0600"):
        owner_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"fedpdpo ledger key 1\n", b"fedpdpo ledger key 1\n" + 63 * b"0", b"\xff"])
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LedgerError, match=r"x\.key: is not a ledger's key$"):
        read_key(path)
    with pytest.raises(LedgerError, match="cannot be read"):
        read_key(tmp_path / "none")


@pytest.mark.parametrize("key", ["", "0" * 63, "G" * 64, "A" * 64, None])
def test_a_public_key_has_one_spelling(key: str) -> None:
    with pytest.raises(ValueError, match="public_key"):
        check_public_key(key)


# ---- units, and files of version 1


@pytest.mark.parametrize("unit", UNITS)
def test_the_header_says_what_epsilon_protects(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "anna.jsonl"
    opened(path, unit=unit).close()
    checked = verify(path)
    assert (checked.unit, checked.relation) == (unit, UNITS[unit])
    opened(path).close()  # who names no unit takes the ledger's
    for other in set(UNITS) - {unit}:
        with pytest.raises(LedgerMismatch, match=f"is of unit '{unit}', not '{other}'"):
            opened(path, unit=other)


def test_an_unknown_unit_or_relation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unit must be one of pair, client, question, got 'person'"):
        opened(tmp_path / "anna.jsonl", unit="person")
    assert not (tmp_path / "anna.jsonl").exists()
    for changes in ({"unit": "client"}, {"version": 3}, {"version": 1, "unit": "client", "relation": UNITS["client"]}):
        with pytest.raises(ValueError, match="is not known here"):
            Header("anna", "demo", 1.0, DELTA, **changes)  # type: ignore[arg-type]


def client_event(steps: int = 1) -> IntegerGaussian:
    return IntegerGaussian(
        variance=900, own_variance=100, colluding_variance=0, norm_squared=25, sample_rate=1.0, steps=steps,
        distance_log2=-100.0, unit="client",
    )  # fmt: skip


def test_an_event_of_another_unit_is_refused_before_and_infinite_after_it_was_done(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path, unit="pair") as ledger:
        with pytest.raises(LedgerMismatch, match="counts in units of one pair"):
            ledger.reserve(client_event(), "run", 1)
        assert len(ledger.records) == 1
        receipt = ledger.reserve(ROUND, "run", 1)
        with pytest.raises(CommitMismatch):
            ledger.commit(receipt, client_event())
        assert math.isinf(ledger.epsilon().epsilon)
    assert math.isinf(verify(path).epsilon.epsilon)


def test_any_kind_of_event_is_covered_by_the_same_mechanism_only(tmp_path: Path) -> None:
    with opened(tmp_path / "anna.jsonl", unit="client") as ledger:
        ledger.commit(ledger.reserve(client_event(2), "run", 1), client_event(1))
        assert ledger.epsilon() == epsilon([client_event(2)], DELTA)
        narrower = IntegerGaussian(
            **{**{f: getattr(client_event(), f) for f in IntegerGaussian.__slots__}, "variance": 890}
        )
        with pytest.raises(CommitMismatch):
            ledger.commit(ledger.reserve(client_event(1), "run", 2), narrower)


OLD = (  # written by the release that knew version 1 alone
    b'{"body":{"budget_epsilon":3.0,"client":"anna","data_id":"demo","delta":1e-05,"relation":"add or remove one pair",'
    b'"unit":"pair","version":1},"hash":"41c1c2adf3c9a9400122ee9bb4d2a9fd6cbc27d012a6b5386108f6c88ccdfe35",'
    b'"kind":"header","prev_hash":"0000000000000000000000000000000000000000000000000000000000000000","seq":0,'
    b'"time":"2026-01-01T00:00:00+00:00"}\n'
)


def test_a_file_of_version_1_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    path.write_bytes(OLD)
    with opened(path, key=None, unit="pair") as ledger:
        ledger.commit(ledger.reserve(ROUND, "run", 1), ROUND)
    with opened(path) as ledger:
        assert ledger.records[-1].kind == "signer"
    assert verify(path).ok
    assert path.read_bytes().startswith(OLD)


# ---- verify recomputes with every accountant


def test_verify_shows_the_least_and_the_largest_of_all_accountants(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with opened(path) as ledger:
        for index in (1, 2):
            ledger.commit(ledger.reserve(ROUND, "run", index), ROUND)
    bound = epsilon([ROUND] * 2, DELTA)
    assert None not in (bound.pld, bound.rdp, bound.gaussian)
    checked = verify(path)
    assert (checked.least, checked.largest) == (bound.gaussian, bound.rdp)
    assert bound.gaussian < bound.pld < bound.rdp  # type: ignore[operator]


def test_verify_of_a_broken_or_unprivate_ledger_shows_no_finite_number(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    with Ledger.open(path, budget_epsilon=math.inf, delta=DELTA, data_id="demo", client="anna") as ledger:
        ledger.reserve(NonPrivate("clip only"), "run", 1)
    assert (verify(path).least, verify(path).largest) == (math.inf, math.inf)
    path.write_bytes(path.read_bytes()[:-5] + b"x\n")
    assert (verify(path).least, verify(path).largest) == (math.inf, math.inf)


def chain(*bodies: object) -> bytes:
    lines, previous = b"", GENESIS
    for seq, body in enumerate(bodies):
        record, line = seal(body, seq=seq, prev_hash=previous, time=TIME)  # type: ignore[arg-type]
        lines, previous = lines + line, record.hash
    return lines


def test_every_recorded_epsilon_is_recomputed_not_only_the_last(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    true = [epsilon([ROUND] * count, DELTA).epsilon for count in (1, 2, 3)]
    for place in range(3):
        told = [value * (0.9 if index == place else 1.0) for index, value in enumerate(true)]
        path.write_bytes(chain(Header("anna", "demo", 9.0, DELTA), *[Reserve(ROUND, "r", 1, value) for value in told]))
        assert f"line {place + 2}: records epsilon" in str(verify(path).problem)


@pytest.mark.parametrize(
    "bodies",
    [
        (Header("anna", "demo", 9.0, 2.0),),
        (Header("anna", "demo", 9.0, DELTA), Reserve(ROUND, "r", 1, 1.0), Reserve(client_event(), "r", 2, 1.0)),
        (Header("anna", "demo", 9.0, DELTA), Reserve(FullBatchGaussian(noise_multiplier=0.0, steps=1), "r", 1, 1.0)),
    ],
    ids=["a delta out of range", "events of two units", "no noise"],
)
def test_a_ledger_that_no_accountant_can_read_is_a_problem_not_a_crash(
    tmp_path: Path, bodies: tuple[object, ...]
) -> None:
    path = tmp_path / "anna.jsonl"
    path.write_bytes(chain(*bodies))
    checked = verify(path)
    assert not checked.ok
    assert math.isinf(checked.epsilon.epsilon)

"""Heads kept elsewhere: a ledger that was cut, put back or written anew is refused; one that grew is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import LedgerBroken, LedgerRolledBack
from privacy.ledger import Ledger, verify, verify_dir
from privacy.ledger_heads import (
    Head,
    accept,
    advance,
    check_head,
    check_signatures,
    countersign,
    read_head,
    read_heads,
    write_heads,
)
from privacy.ledger_signing import public_hex

from .ledger_builders import DELTA, ROUND

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SERVER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def opened(
    path: Path, *, client: str = "anna", key: Ed25519PrivateKey | None = None, heads: tuple[Head, ...] = ()
) -> Ledger:
    return Ledger.open(path, budget_epsilon=9.0, delta=DELTA, data_id="demo", client=client, key=key, heads=heads)


def spend(path: Path, rounds: int, *, client: str = "anna", key: Ed25519PrivateKey | None = None) -> Head:
    """The head after that many rounds more."""
    with opened(path, client=client, key=key) as ledger:
        for index in range(rounds):
            ledger.commit(ledger.reserve(ROUND, "run", index), ROUND)
        return ledger.head()


@pytest.fixture(params=[None, OWNER], ids=["unsigned", "signed"])
def key(request: pytest.FixtureRequest) -> Ed25519PrivateKey | None:
    found: Ed25519PrivateKey | None = request.param
    return found


def test_a_ledger_that_grew_contains_every_earlier_head(tmp_path: Path, key: Ed25519PrivateKey | None) -> None:
    path = tmp_path / "anna.jsonl"
    heads = [spend(path, rounds, key=key) for rounds in (0, 1, 2)]
    assert [head.records for head in heads] == [1, 3, 7]
    assert verify(path, heads).ok
    opened(path, key=key, heads=tuple(heads)).close()
    assert verify_dir(tmp_path, heads)[0].ok


@pytest.mark.parametrize("kept_lines", range(5))
def test_a_cut_end_is_refused_at_every_line(tmp_path: Path, kept_lines: int) -> None:
    path = tmp_path / "anna.jsonl"
    head = spend(path, 2)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept_lines]))
    cut = path.read_bytes()
    with pytest.raises(LedgerRolledBack, match=f"has {kept_lines} records, but a head of 5 is known"):
        opened(path, heads=(head,))
    assert path.read_bytes() == cut  # what is refused is left as it was
    assert not verify(path, [head]).ok


def test_an_older_copy_put_back_is_refused(tmp_path: Path, key: Ed25519PrivateKey | None) -> None:
    path = tmp_path / "anna.jsonl"
    spend(path, 1, key=key)
    backup = path.read_bytes()
    head = spend(path, 1, key=key)
    path.write_bytes(backup)
    assert verify(path).ok  # the chain alone cannot know
    with pytest.raises(LedgerRolledBack, match="an older copy was put back"):
        opened(path, key=key, heads=(head,))
    spend(path, 3, key=key)  # longer again, but another history
    with pytest.raises(LedgerRolledBack, match="diverges from a known head at line 5"):
        opened(path, key=key, heads=(head,))


def test_a_deleted_ledger_is_refused_and_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    head = spend(path, 1)
    path.unlink()
    with pytest.raises(LedgerRolledBack, match="is missing, but a head of 3 records"):
        opened(path, heads=(head,))
    assert not path.exists()
    spend(tmp_path / "ben.jsonl", 1, client="ben")
    checked = verify_dir(tmp_path, [head])
    assert [one.ok for one in checked] == [True, False]
    assert "client anna, data demo is known" in str(checked[1].problem)


def test_a_ledger_written_anew_by_its_owner_diverges(tmp_path: Path) -> None:
    head = spend(tmp_path / "first.jsonl", 2, key=OWNER)
    spend(tmp_path / "anew.jsonl", 9, key=OWNER)
    checked = verify(tmp_path / "anew.jsonl", [head])
    assert "diverges from a known head at line 5" in str(checked.problem)


def test_the_owner_cannot_drop_the_signatures_of_a_known_ledger(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    head = spend(path, 1, key=OWNER)
    records = opened(path, key=OWNER).records
    with pytest.raises(LedgerRolledBack, match="was signed with another key"):
        check_head(records, replace(head, public_key=None, signature=None), path)


def test_a_head_of_another_ledger_is_refused(tmp_path: Path) -> None:
    head = spend(tmp_path / "anna.jsonl", 1)
    spend(tmp_path / "ben.jsonl", 1, client="ben")
    assert not verify(tmp_path / "ben.jsonl", [head]).ok
    told = replace(read_head(tmp_path / "ben.jsonl"), client="anna")
    assert "is not the ledger of anna" in str(verify(tmp_path / "ben.jsonl", [told]).problem)


# ---- signatures


FORGERIES: dict[str, Callable[[Head], Head]] = {
    "records": lambda head: replace(head, records=2),
    "hash": lambda head: replace(head, head_hash="0" * 64),
    "client": lambda head: replace(head, client="ben"),
    "data": lambda head: replace(head, data_id="other"),
    "key": lambda head: replace(head, public_key=public_hex(SERVER)),
    "no key": lambda head: replace(head, public_key=None),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_any_changed_fact_spoils_the_owners_signature(tmp_path: Path, name: str) -> None:
    head = spend(tmp_path / "anna.jsonl", 1, key=OWNER)
    check_signatures(head)
    with pytest.raises(LedgerBroken, match="its signature is not that"):
        check_signatures(FORGERIES[name](head))


@pytest.mark.parametrize(
    "change",
    [
        lambda head: replace(head, records=2),
        lambda head: replace(head, signature=None),
        lambda head: replace(head, peer_key=public_hex(OWNER)),
        lambda head: replace(head, peer_key=None),
        lambda head: replace(head, peer_signature=None),
        lambda head: replace(head, peer_signature=head.signature),
    ],
)
def test_a_countersignature_covers_the_facts_and_the_owners_signature(
    tmp_path: Path, change: Callable[[Head], Head]
) -> None:
    head = countersign(spend(tmp_path / "anna.jsonl", 1, key=OWNER), SERVER)
    check_signatures(head)
    assert verify(tmp_path / "anna.jsonl", [head]).ok
    with pytest.raises(LedgerBroken):
        check_signatures(change(head))


def test_a_forged_head_cannot_get_an_honest_ledger_refused_as_rolled_back(tmp_path: Path) -> None:
    head = countersign(spend(tmp_path / "anna.jsonl", 1, key=OWNER), SERVER)
    with pytest.raises(LedgerBroken, match="signature") as caught:
        opened(tmp_path / "anna.jsonl", key=OWNER, heads=(replace(head, records=99),))
    assert not isinstance(caught.value, LedgerRolledBack)


# ---- what a peer keeps


def test_a_peer_takes_heads_that_grow_and_refuses_those_that_shrink_or_differ(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    first, second = spend(path, 1, key=OWNER), spend(path, 1, key=OWNER)
    other = spend(tmp_path / "ben.jsonl", 4, client="ben", key=OWNER)
    known = accept(accept((), first), other)
    known = accept(known, second)
    assert known == (second, other)
    assert accept(known, second) == known
    with pytest.raises(LedgerRolledBack, match="3 records, 5 are known"):
        accept(known, first)
    with pytest.raises(LedgerRolledBack, match="two of 5 records differ"):
        accept(known, spend(tmp_path / "anew.jsonl", 2, key=OWNER))


def test_a_peer_takes_no_unsigned_head_of_a_signed_ledger(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    known = accept((), spend(path, 1, key=OWNER))
    spend(path, 1, key=OWNER)
    for unsigned in (read_head(path), read_head(path, SERVER)):
        with pytest.raises(LedgerBroken, match="is not signed with the ledger's known key"):
            accept(known, unsigned)
    assert accept(known, read_head(path, OWNER))[0].records == 5


def test_merging_keeps_the_latest_head_of_each_ledger(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    first, second = spend(path, 1), spend(path, 1)
    for order in ((first, second), (second, first)):
        assert advance(order[:1], order[1:]) == (second,)


# ---- files


def test_heads_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "heads.json"
    heads = (countersign(spend(tmp_path / "a.jsonl", 1, key=OWNER), SERVER), spend(tmp_path / "b.jsonl", 1, client="b"))
    write_heads(path, heads)
    assert read_heads(path) == heads
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["heads.json"]


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"version":2,"heads":[]}', '{"version":1,"heads":[{}]}', '{"version":1,"heads":5}',
        '{"version":1,"heads":[],"x":1}', "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_file_of_heads_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "heads.json"
    path.write_text(content)
    with pytest.raises(LedgerBroken, match=r"heads\.json: is not a file of heads"):
        read_heads(path)


@pytest.mark.parametrize(("name", "value"), [("records", "3"), ("records", True), ("client", None), ("peer_key", 5)])
def test_a_field_of_another_type_is_refused(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "heads.json"
    write_heads(path, [replace(spend(tmp_path / "anna.jsonl", 1), **{name: value})])
    with pytest.raises(LedgerBroken, match=name):
        read_heads(path)

"""Checking a transcript: every change of one field is found, and every lie that agrees with itself by its own rule."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_harness import Federation, fixed_entropy, identities, identity_of, make_config, random_vectors
from secagg_transcripts import (
    BIG,
    MALICIOUS,
    SMALL,
    broken,
    broken_in,
    drops_everywhere,
    forged,
    mutations,
    rechained,
    record,
    small,
    transcript_of,
    view,
)

from secagg import BadMessage, LocalRound, RoundConfig, SigningKey, Stage, TooFewSurvivors
from secagg.messages import Consent
from secagg.server import CollectShares
from secagg.statements import keys_statement, survivors_statement
from secagg.transcript import Recorder
from secagg.transcript_check import ROSTER, Verdict, check
from secagg.transcript_lines import to_lines
from secagg.transcript_record import Released, Revealed, Transcript
from secagg.transcript_view import expected_size

KINDS = ("config", "keys", "shares", "survivors", "consents", "reveals", "bytes", "sum", "end")
NOT_CHECKABLE = {("shares", "commitment"), ("sum", "sha256")}
"""The server's word alone: nothing else in the file depends on them. `cannot_show` says so."""
each_small = pytest.mark.parametrize("name", SMALL)


@pytest.mark.parametrize("config", BIG.values(), ids=BIG)
def test_an_honest_round_with_drops_at_every_stage_gives_all_that_its_mode_gives(config: RoundConfig) -> None:
    roster = {client: identity_of(client).public for client in config.clients}
    checked = check(record(config, drops_everywhere(config)), roster=roster)
    assert checked.ok and checked.findings == ()
    other = {one.name for one in checked.guarantees if one.verdict is Verdict.OTHER_MODE}
    assert other == (set() if config.malicious else {"signed keys", "consents"})
    assert {one.verdict for one in checked.guarantees} <= {Verdict.HELD, Verdict.OTHER_MODE}
    assert isinstance(checked.transcript, Transcript) and isinstance(checked.transcript.outcome, Released)
    assert dict(checked.transcript.outcome.dropped) == drops_everywhere(config)


@each_small
@pytest.mark.parametrize("kind", KINDS)
def test_every_change_of_one_field_is_found_though_the_chain_was_made_anew(name: str, kind: str) -> None:
    lines = small(name)
    if kind == "consents" and not SMALL[name].malicious:
        return
    assert check(lines).ok
    missed, tried = set(), 0
    for path, changed in mutations(lines, kind):
        tried += 1
        try:
            found = not check(changed).ok
        except BadMessage:
            found = True
        if not found:
            missed.add((kind, *path))
    assert tried > 2
    assert {(kind, str(path[-1])) for kind, *path in missed} <= NOT_CHECKABLE


@each_small
def test_what_is_the_servers_word_alone_is_listed_and_changes_the_head(name: str) -> None:
    checked = check(small(name))
    assert any("hash of the sum, the commitments and the shares left out" in limit for limit in checked.cannot_show)
    for kind, field in NOT_CHECKABLE:
        changed = [lines for path, lines in mutations(small(name), kind) if path[-1] == field]
        assert changed
        heads = set()
        for lines in changed:
            try:
                heads.add(check(lines).head)
            except BadMessage:  # of another length
                continue
        assert heads and checked.head not in heads


@each_small
def test_a_line_that_is_missing_twice_there_or_elsewhere_is_found(name: str) -> None:
    lines = list(small(name))
    for i in range(len(lines)):
        for spoilt in (lines[:i] + lines[i + 1 :], lines[: i + 1] + lines[i:], [*lines[:i], *lines[i + 1 :], lines[i]]):
            if spoilt != lines:
                assert "chain" in broken_in(spoilt)
                assert "chain" in broken_in(rechained([json.loads(line) for line in spoilt]))


@each_small
def test_an_edit_alone_breaks_the_chain(name: str) -> None:
    lines = list(small(name))
    lines[2] = lines[2].replace('"sealed":6', '"sealed":7')
    assert lines != list(small(name))
    assert "chain" in broken_in(lines)


@pytest.mark.parametrize(
    "line",
    ["", "{}", "[]", "1", "{", '{"a": 1}', '{"a":1.0}', '{"a":1e3}', '{"a":NaN}', "\x00", '"' + "[" * 100_000, "é",
     '{"a":' + "9" * 5000 + "}", "[" * 100_000, '{"b":1,"a":1}', '{"a":1,"a":1}', '{"a":"\ud800"}'],
)  # fmt: skip
def test_what_is_no_line_of_a_transcript_is_a_bad_message(line: str) -> None:
    with pytest.raises(BadMessage, match="line 1"):
        check([line])
    with pytest.raises(BadMessage, match="line 2"):
        check([small("complete")[0], line])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(max_size=60) | st.sampled_from(small("sparse")) | st.sampled_from(small("complete")), max_size=12)
)
def test_garbage_gives_a_bad_message_or_findings(lines: list[str]) -> None:
    try:
        checked = check(lines, roster={}, client=10)
    except BadMessage as error:
        assert "\n" not in str(error) and len(str(error)) < 200
    else:
        assert not checked.ok


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.just("0" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(SMALL)), st.integers(0, 2**32), JSON_VALUES)
def test_any_value_in_any_place_gives_a_bad_message_or_findings(name: str, seed: int, value: object) -> None:
    rng = random.Random(seed)
    objects = [json.loads(line) for line in small(name)]
    target = rng.choice(objects)
    while True:
        key = rng.choice(list(target) if isinstance(target, dict) else range(len(target)))
        if isinstance(target[key], dict | list) and target[key] and rng.random() < 0.8:
            target = target[key]
            continue
        before, target[key] = target[key], value
        break
    try:
        checked = check(rechained(objects), roster={}, client=13)
    except BadMessage:
        return
    assert not checked.ok or before == value or key in ("previous", "commitment", "sha256")


def survivors_only(transcript: Transcript, *, answered: tuple[int, ...] = (), survived: tuple[int, ...]) -> Transcript:
    """The same round with other survivors, who answer as they should (all of them, unless `answered` says who)."""
    cut = replace(transcript, survivors=survived)
    seen = view(cut)
    reveals = []
    for client in answered or survived:
        owners = seen.neighbors_of(client) | ({client} if seen.config.complete else set())
        alive = owners & seen.shared & set(survived)
        reveals.append(Revealed(client, tuple(sorted(alive)), tuple(sorted((owners & seen.shared) - alive))))
    consents = transcript.consents
    if consents is not None:
        statement = survivors_statement(seen.config, seen.roster_hash, survived)
        consents = tuple(Consent(client, identity_of(client).sign(statement)) for client in answered or survived)
    return replace(cut, reveals=tuple(reveals), consents=consents)


@each_small
def test_a_forged_round_that_keeps_every_rule_passes(name: str) -> None:
    """The control of the tests below: what they change is all that is wrong."""
    transcript = transcript_of(small(name))
    assert broken_in(forged(transcript)) == set()
    everyone = tuple(shared.client for shared in transcript.shares)
    assert broken_in(forged(survivors_only(transcript, survived=everyone))) == set()


def test_two_clients_with_one_public_key_are_found() -> None:
    transcript = transcript_of(small("complete"))
    first, second, *rest = transcript.keys
    twin = replace(second, channel_key=first.mask_key)
    assert broken_in(forged(replace(transcript, keys=(first, twin, *rest)))) == {"keys"}


@pytest.mark.parametrize("key", [bytes(32), bytes([1, *bytes(31)])])
def test_a_public_key_of_small_order_is_found(key: bytes) -> None:
    transcript = transcript_of(small("complete"))
    first, *rest = transcript.keys
    assert broken_in(forged(replace(transcript, keys=(replace(first, mask_key=key), *rest)))) == {"keys"}


def test_a_key_that_the_server_put_in_is_found_by_its_signature() -> None:
    transcript = transcript_of(small("complete, malicious server"))
    config = transcript.header.round_config()
    first, *rest = transcript.keys
    other = first.channel_key[:-1] + bytes([first.channel_key[-1] ^ 1])
    unsigned = survivors_only(
        replace(transcript, keys=(replace(first, channel_key=other), *rest)), survived=transcript.survivors
    )
    assert broken_in(forged(unsigned)) == {"signed keys"}
    statement = keys_statement(config, first.client, other, first.mask_key)
    by_another = replace(first, channel_key=other, signature=identity_of(rest[0].client).sign(statement))
    by_another_client = survivors_only(replace(transcript, keys=(by_another, *rest)), survived=transcript.survivors)
    assert broken_in(forged(by_another_client)) == {"signed keys"}


def test_a_round_of_made_up_identities_passes_alone_and_fails_against_the_true_roster() -> None:
    config = SMALL["complete, malicious server"]
    fake = {client: SigningKey.generate(fixed_entropy(b"%d" % client)) for client in config.clients}
    config = replace(config, identities=tuple(key.public for key in fake.values()))
    recorder = Recorder(config)
    local = LocalRound(config, {}, identities=fake, entropy=fixed_entropy(), tap=recorder)
    for client in local.open():
        local.submit(client, random_vectors(config)[client])
    lines = recorder.finish(local.finish())
    true = {client: key.public for client, key in identities(SMALL["complete, malicious server"]).items()}
    assert broken_in(lines) == set()
    assert broken_in(lines, roster=true) == {"roster"}
    del true[config.clients[0]]
    assert "client 10 is not in the roster" in " ".join(check(lines, roster=true).findings)
    assert any("roster" in limit for limit in check(lines).cannot_show)
    assert not any("check against a roster" in limit for limit in check(lines, roster=true).cannot_show)


@pytest.mark.parametrize("name", SMALL)
def test_a_round_that_leaves_out_clients_of_the_roster_is_found_and_names_them(name: str) -> None:
    """Else a server could run it with a few of them, most of them its own."""
    config, lines = SMALL[name], list(small(name))
    roster = {client: identity_of(client).public for client in config.clients}
    held = check(lines, roster=roster)
    assert held.ok
    assert {one.text for one in held.guarantees if one.name == "roster"} == {ROSTER}
    larger = {**roster, 7: bytes(32), 999: bytes(32)}
    checked = check(lines, roster=larger)
    assert broken(checked) == {"roster"}
    assert "roster: clients 7, 999 of the roster are not among the clients of this round" in checked.findings
    assert "are those of" not in next(one.text for one in checked.guarantees if one.name == "roster")


def test_keys_that_the_graph_does_not_follow_from_are_found() -> None:
    transcript = transcript_of(small("sparse"))
    first, *rest = transcript.keys
    other = replace(first, channel_key=first.channel_key[:-1] + bytes([first.channel_key[-1] ^ 1]))
    assert "one kind" in broken_in(forged(replace(transcript, keys=(other, *rest))))
    assert broken_in(forged(transcript)) == set()


def test_a_sum_of_too_few_is_found_even_where_the_threshold_is_met() -> None:
    config = make_config(7, threshold=4, min_survivors=6)
    transcript = transcript_of(record(config, {config.clients[0]: Stage.AFTER_SHARES}))
    assert broken_in(forged(transcript)) == set()
    assert broken_in(forged(survivors_only(transcript, survived=config.clients[2:]))) == {"sets"}


def test_a_graph_over_fewer_clients_than_it_was_computed_for_is_found() -> None:
    config = make_config(12, neighbors=6, threshold=3, min_survivors=3)
    lines = record(config, dict.fromkeys(config.clients[:2], Stage.BEFORE_KEYS))
    thick = replace(transcript_of(lines).header, least_present=11)
    changed = thick.round_config()
    thick = replace(thick, digest=changed.digest(), binding=changed.binding())
    assert broken_in(lines) == set()
    assert "sets" in broken_in(forged(replace(transcript_of(lines), header=thick)))


def test_clients_whose_secrets_too_few_others_hold_are_no_part_of_u2_as_at_the_server() -> None:
    """Leaving one out can take the next below the threshold: the whole ring goes, or a part of it."""
    for threshold, neighbors in ((2, 4), (3, 4), (5, 8)):
        config = make_config(21, neighbors=neighbors, threshold=threshold)
        for seed in range(12):
            away = random.Random(seed).sample(config.clients, 5)
            federation = Federation(replace(config, session=bytes([seed]) * 16)).advertise()
            transcript = transcript_of(record(federation.config, {}))
            for client, keys in federation.peer_keys.items():
                if client not in away:
                    reply = federation.clients[client].receive(keys)
                    assert reply is not None
                    federation.server.receive(reply)
            assert [entry.client for entry in transcript.keys] == list(config.clients)
            state = federation.server._state
            assert isinstance(state, CollectShares)
            shares = tuple(shared for shared in transcript.shares if shared.client not in away)
            kept = view(replace(transcript, keys=tuple(state.keys.values()), shares=shares)).shared
            if len(kept) >= config.quorum:
                assert federation.server.deadline().keys() == kept
            else:
                with pytest.raises(TooFewSurvivors, match=f"^{len(kept)} clients shared"):
                    federation.server.deadline()


def test_a_round_too_large_for_its_reader_is_a_bad_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.transcript_view.MAX_PAIRS", 48)
    with pytest.raises(BadMessage, match="7 clients have more than 48 pairs"):
        check(small("complete"))
    monkeypatch.setattr("secagg.transcript_view.MAX_PAIRS", 9 * 6)
    assert check(small("sparse")).ok


def test_a_survivor_that_never_shared_is_found() -> None:
    config = SMALL["complete"]
    transcript = transcript_of(record(config, {config.clients[1]: Stage.AFTER_KEYS}))
    assert "sets" in broken_in(forged(replace(transcript, survivors=config.clients)))


@each_small
def test_shares_of_both_secrets_of_one_client_are_found(name: str) -> None:
    transcript = transcript_of(small(name))
    first, *rest = transcript.reveals
    moved = first.self_mask_seeds[0]
    both = Revealed(first.client, first.self_mask_seeds[1:], tuple(sorted((*first.mask_secrets, moved))))
    checked = check(forged(replace(transcript, reveals=(both, *rest))))
    assert broken(checked) == {"one kind"}
    assert any(f"both secrets of client {moved}" in finding for finding in checked.findings)


@pytest.mark.parametrize("name", ["complete, malicious server", "sparse, malicious server"])
def test_a_signature_under_another_survivor_list_key_set_or_model_is_found(name: str) -> None:
    transcript = transcript_of(small(name))
    config = transcript.header.round_config()
    first, *rest = transcript.consents or ()
    key = identity_of(first.client)
    for statement in (
        survivors_statement(config, transcript.roster_hash, transcript.survivors[:-1]),
        survivors_statement(config, bytes(32), transcript.survivors),
        survivors_statement(replace(config, model=b"m" * 32), transcript.roster_hash, transcript.survivors),
        survivors_statement(replace(config, round_index=8), transcript.roster_hash, transcript.survivors),
    ):
        other = Consent(first.client, key.sign(statement))
        assert broken_in(forged(replace(transcript, consents=(other, *rest)))) == {"consents"}


def test_an_answer_before_enough_neighbours_signed_is_found() -> None:
    transcript = transcript_of(small("sparse, malicious server"))
    seen = view(transcript)
    one = next(iter(seen.revealed))
    near = sorted(seen.neighbors_of(one) & seen.consented)
    lost = frozenset(near[: len(near) - seen.config.threshold + 1])  # threshold - 1 signatures are left
    kept = tuple(consent for consent in transcript.consents or () if consent.client not in lost)
    answered = tuple(revealed for revealed in transcript.reveals if revealed.client not in lost)
    assert "consents" in broken_in(forged(replace(transcript, consents=kept, reveals=answered)))


def test_an_answer_with_too_few_holders_among_the_survivors_is_found_in_an_aborted_round() -> None:
    """A client would have refused: the server could rebuild both of its secrets from different holders."""
    config = make_config(13, neighbors=6, threshold=5)
    everyone = transcript_of(record(config, {}))
    one = config.clients[0]
    away = sorted(view(everyone).neighbors_of(one))[:2]
    stopped = transcript_of(record(config, dict.fromkeys(away, Stage.AFTER_SHARES)))
    assert not isinstance(stopped.outcome, Released)
    survived = tuple(client for client in config.clients if client not in away)
    holders = {client: view(everyone).holders_of(client) & set(survived) for client in survived}
    other = next(client for client in survived if len(holders[client]) >= config.threshold)
    assert len(holders[one]) < config.threshold
    assert broken_in(forged(survivors_only(stopped, survived=survived, answered=(other,)))) == set()
    assert broken_in(forged(survivors_only(stopped, survived=survived, answered=(one,)))) == {"holders"}


def test_a_sum_with_a_secret_that_nobody_could_rebuild_is_found() -> None:
    config = make_config(13, neighbors=6, threshold=5)
    transcript = transcript_of(record(config, {}))
    silent = sorted(view(transcript).neighbors_of(config.clients[0]))[:2]
    answered = tuple(client for client in config.clients if client not in silent)
    lie = survivors_only(transcript, survived=config.clients, answered=answered)
    assert broken_in(forged(lie)) == {"recoverable"}


def test_shares_left_out_count_against_the_holders_and_must_have_been_given() -> None:
    transcript = transcript_of(small("complete"))
    owner = transcript.survivors[0]
    holders = [revealed.client for revealed in transcript.reveals]
    spare = len(holders) - transcript.header.threshold

    def with_misfits(*pairs: tuple[int, int]) -> set[str]:
        assert isinstance(transcript.outcome, Released)
        return broken_in(forged(replace(transcript, outcome=replace(transcript.outcome, misfits=pairs))))

    assert with_misfits(*((holder, owner) for holder in holders[:spare])) == set()
    assert with_misfits(*((holder, owner) for holder in holders[: spare + 1])) == {"recoverable"}
    assert with_misfits((999, owner)) == {"recoverable"}
    assert with_misfits((holders[0], 999)) == {"recoverable"}


@pytest.mark.parametrize("name", SMALL)
def test_a_message_without_the_one_it_answers_is_found(name: str) -> None:
    transcript = transcript_of(small(name))
    for answered in ("PeerKeys", "Delivery", "UnmaskRequest"):
        first = next(m.clients[0] for m in transcript.messages if m.message == answered)
        less = expected_size(view(transcript), answered, first)
        shorter = [
            replace(m, clients=m.clients[1:], size=m.size - less) if m.message == answered else m
            for m in transcript.messages
        ]
        clients = [replace(c, download=c.download - less) if c.client == first else c for c in transcript.clients]
        lines = to_lines(replace(transcript, messages=tuple(shorter), clients=tuple(clients)))
        assert broken_in(lines) == {"bytes"}, answered


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"threshold": 3}, "threshold must lie in"),
        ({"min_survivors": 2}, "min_survivors"),
        ({"clients": (10, 13)}, "clients"),
        ({"version": 2}, "version"),
    ],
)
def test_a_configuration_that_the_protocol_refuses_is_found_and_nothing_else_is_claimed(
    change: dict[str, object], text: str
) -> None:
    transcript = transcript_of(small("complete"))
    header = replace(transcript.header, **change)  # type: ignore[arg-type]
    checked = check(to_lines(replace(transcript, header=header)), client=10)
    assert "configuration" in broken(checked)
    assert text in checked.findings[0]


@pytest.mark.parametrize(
    ("drops", "last"),
    [
        (dict.fromkeys(range(10, 29, 3), Stage.BEFORE_KEYS), "keys"),
        (dict.fromkeys(range(10, 25, 3), Stage.BEFORE_KEYS), "keys"),
        (dict.fromkeys(range(10, 25, 3), Stage.AFTER_KEYS), "shares"),
        (dict.fromkeys(range(10, 25, 3), Stage.AFTER_SHARES), "masked"),
        (dict.fromkeys(range(10, 25, 3), Stage.AFTER_MASKED), "consents"),
        (dict.fromkeys(range(10, 25, 3), Stage.AFTER_CONSENT), "reveals"),
    ],
    ids=["nobody", "keys", "shares", "vectors", "consents", "reveals"],
)
def test_an_aborted_round_shows_how_far_it_came_and_claims_no_sum(drops: dict[int, Stage], last: str) -> None:
    checked = check(record(SMALL["complete, malicious server"], drops), client=28)
    assert checked.ok, checked.findings
    assert (checked.aborted, checked.sum_sha256) == ("TooFewSurvivors", None)
    verdicts = {one.name: one.verdict for one in checked.guarantees}
    assert verdicts["sum"] is verdicts["recoverable"] is Verdict.NOT_CHECKED
    assert "there is no sum" in checked.guarantees[-1].text
    assert checked.transcript is not None and len(checked.transcript.reveals) == (2 if last == "reveals" else 0)


def test_an_aborted_round_in_which_too_few_signed_and_some_answered_is_found() -> None:
    config = SMALL["complete, malicious server"]
    stopped = transcript_of(record(config, dict.fromkeys(config.clients[:5], Stage.AFTER_MASKED)))
    answered = config.clients[5:]
    lie = survivors_only(stopped, survived=stopped.survivors, answered=answered)
    assert broken_in(forged(lie)) >= {"consents", "sets"}


def test_one_client_is_told_what_the_file_claims_about_it() -> None:
    lines = small("complete, malicious server")
    told = [check(lines, client=client).guarantees[-1].text for client in (10, 13)]
    assert "sum with 5 others; it stayed to the end; 5 holders gave shares of its self-mask seed, 0 of " in told[0]
    assert "no sum; it was last heard after shares; 0 holders gave shares of its self-mask seed, 5 of " in told[1]
    assert broken_in(list(lines), client=11) == {"client 11"}


def test_a_malicious_round_without_signatures_and_the_reverse_are_found() -> None:
    signed, unsigned = transcript_of(small("complete, malicious server")), transcript_of(small("complete"))
    assert "chain" in broken_in(to_lines(replace(signed, consents=None)))
    assert "chain" in broken_in(to_lines(replace(unsigned, consents=())))
    assert signed.header.mode is MALICIOUS

"""Bytes on the wire: one encoding per message, everything else refused, nothing else raised."""

import contextlib
import copy
import random
from dataclasses import replace

import pytest
from secagg_harness import Federation, finished_federation, identities, make_config, random_vectors, run_local

from secagg import Mode, RoundConfig
from secagg.client import TRANSITIONS
from secagg.client_steps import Self
from secagg.errors import BadMessage, SecAggError
from secagg.messages import Advertise, Delivery, Message, PeerKeys, Reveal, Sealed, Share, Shares, UnmaskRequest
from secagg.shamir import PRIME
from secagg.wire import decode, encode

PLAIN = make_config(5, dim=9)
SIGNED = make_config(9, dim=9, neighbors=6, threshold=4, least_present=5, mode=Mode.MALICIOUS_SERVER)
EXAMPLES = [
    pytest.param(config, message, id=f"{type(message).__name__}, {config.mode.value}")
    for config in (PLAIN, SIGNED)
    for message in finished_federation(config, absent=(config.clients[-1],)).messages()
]
each_message = pytest.mark.parametrize(("config", "message"), EXAMPLES)


def examples(config: RoundConfig) -> list[Message]:
    return [example.values[1] for example in EXAMPLES if example.values[0] is config]  # type: ignore[misc]


def test_the_examples_cover_every_message_type() -> None:
    assert {type(message) for message in examples(SIGNED)} == set(Message.__args__)
    reveal = next(message for message in examples(PLAIN) if isinstance(message, Reveal))
    assert len(reveal.self_mask_seeds) == 4
    assert len(reveal.mask_secrets) == 1


@each_message
def test_decoding_inverts_encoding(config: RoundConfig, message: Message) -> None:
    assert decode(encode(message, config), config) == message


@each_message
def test_every_shorter_prefix_and_every_extra_byte_is_refused(config: RoundConfig, message: Message) -> None:
    data = encode(message, config)
    for end in range(len(data)):
        with pytest.raises(BadMessage):
            decode(data[:end], config)
    for extra in (b"\x00", b"\xff", data):
        with pytest.raises(BadMessage):
            decode(data + extra, config)


@each_message
def test_mutated_bytes_give_a_message_with_that_encoding_or_a_secagg_error(
    config: RoundConfig, message: Message
) -> None:
    rng = random.Random(17)
    data = encode(message, config)
    understood = 0
    for _ in range(600):
        mutated = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            start = 34 if rng.random() < 0.9 else 0  # mostly past the digest, which hides the rest
            mutated[rng.randrange(start, len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del mutated[rng.randrange(len(mutated)) :]
        try:
            decoded = decode(bytes(mutated), config)
        except SecAggError:
            continue
        understood += 1
        assert encode(decoded, config) == bytes(mutated)
    assert understood > 10


@pytest.mark.parametrize("config", [PLAIN, SIGNED], ids=["plain", "signed"])
def test_random_bytes_give_a_message_with_that_encoding_or_a_secagg_error(config: RoundConfig) -> None:
    rng = random.Random(3)
    for _ in range(2000):
        kind = rng.randrange(11)
        header = bytes([2, kind]) + (config.digest() if kind < 5 else config.binding()) if rng.random() < 0.8 else b""
        data = header + rng.randbytes(rng.randrange(200))
        try:
            assert encode(decode(data, config), config) == data
        except SecAggError:
            continue


def mutations(config: RoundConfig, message: Message, count: int) -> list[Message]:
    """Messages that decode, made from the bytes of `message` by changing some after the digest."""
    rng = random.Random(23)
    data, found = encode(message, config), []
    while len(found) < count:
        mutated = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            mutated[rng.randrange(34, len(data))] = rng.randrange(256)
        with contextlib.suppress(SecAggError):
            found.append(decode(bytes(mutated), config))
    return found


@each_message
def test_a_party_that_is_given_mutated_messages_raises_secagg_errors_only(
    config: RoundConfig, message: Message
) -> None:
    federation = Federation(config)
    me, states = config.clients[0], []
    advance = (
        federation.advertise,
        federation.share,
        federation.deliver,
        lambda: federation.mask(random_vectors(config), config.clients[-1:]),
        *([federation.consent] if config.malicious else []),
        lambda: None,
    )
    for step in advance:
        states.append(federation.clients[me]._state)
        for mutated in mutations(config, message, 40):
            with contextlib.suppress(SecAggError):
                copy.deepcopy(federation.server).receive(mutated)
            transition = TRANSITIONS.get((type(states[-1]), type(mutated)))
            if transition is not None:
                with contextlib.suppress(SecAggError):
                    transition(config, Self(me, identities(config).get(me)), states[-1], mutated)
        step()
    assert len({type(state) for state in states}) == 4 + config.malicious  # every state that waits for something


@pytest.mark.parametrize(
    "other",
    [
        {"round_index": 8},
        {"session": b"another session!"},
        {"context": bytes([1]) * 32},
        {"threshold": 5},
    ],
    ids=["round", "session", "context", "threshold"],
)
@each_message
def test_a_message_of_another_round_is_refused(config: RoundConfig, message: Message, other: dict[str, object]) -> None:
    with pytest.raises(BadMessage, match="another round"):
        decode(encode(message, replace(config, **other)), config)  # type: ignore[arg-type]


def test_another_version_is_refused() -> None:
    data = bytearray(encode(examples(PLAIN)[0], PLAIN))
    data[0] = 1
    with pytest.raises(BadMessage, match="wire version 1, this is version 2"):
        decode(bytes(data), PLAIN)


@pytest.mark.parametrize(("config", "limit"), [(PLAIN, 5), (SIGNED, 7)])
def test_a_count_beyond_the_neighbourhood_is_refused_before_anything_is_read(config: RoundConfig, limit: int) -> None:
    header = bytes([2, 4]) + config.digest()
    with pytest.raises(BadMessage, match=f"a list of 4294967295, at most {limit} are possible"):
        decode(header + b"\xff\xff\xff\xff", config)


def test_a_bit_beyond_the_roster_and_an_id_outside_it_are_refused() -> None:
    header = bytes([2, 6]) + PLAIN.binding()
    assert decode(header + b"\xf8", PLAIN) == UnmaskRequest(PLAIN.clients)
    with pytest.raises(BadMessage, match="beyond the roster"):
        decode(header + b"\xfc", PLAIN)
    with pytest.raises(BadMessage, match="outside the roster"):
        encode(UnmaskRequest((10, 11)), PLAIN)


def test_messages_from_the_vector_on_belong_to_one_model_and_those_before_it_to_any() -> None:
    other = replace(SIGNED, model=bytes([1]) * 32)
    kept = {type(m).__name__ for m in examples(SIGNED) if encode(m, SIGNED) == encode(m, other)}
    assert kept == {"Advertise", "PeerKeys", "Shares", "Delivery"}
    for message in examples(SIGNED):
        if type(message).__name__ not in kept:
            with pytest.raises(BadMessage, match="another model"):
                decode(encode(message, other), SIGNED)


KEY, OTHER_KEY = bytes(32), bytes([1]) * 32


@pytest.mark.parametrize(
    "construct",
    [
        lambda: Advertise(-1, KEY, OTHER_KEY),
        lambda: Advertise(2**32, KEY, OTHER_KEY),
        lambda: Advertise(1, KEY[:31], OTHER_KEY),
        lambda: Advertise(1, KEY, OTHER_KEY + b"x"),
        lambda: PeerKeys((1, 2), b"", (Advertise(2, KEY, KEY), Advertise(1, KEY, KEY))),
        lambda: PeerKeys((1, 2), b"", (Advertise(2, KEY, KEY), Advertise(2, KEY, KEY))),
        lambda: Sealed(1, bytes(81)),
        lambda: Shares(1, bytes(31), ()),
        lambda: Shares(1, bytes(32), (Sealed(3, bytes(82)), Sealed(2, bytes(82)))),
        lambda: Delivery((Sealed(3, bytes(82)), Sealed(3, bytes(82)))),
        lambda: UnmaskRequest((1, 3, 2)),
        lambda: UnmaskRequest((1, 1)),
        lambda: UnmaskRequest((1, 2**32)),
        lambda: Share(1, PRIME),
        lambda: Share(1, -1),
        lambda: Reveal(1, (Share(1, 5), Share(1, 6)), ()),
    ],
)
def test_a_message_that_breaks_its_structure_cannot_be_constructed(construct: object) -> None:
    with pytest.raises(BadMessage):
        construct()  # type: ignore[operator]


def test_a_reveal_with_both_kinds_of_share_of_one_client_cannot_be_constructed() -> None:
    with pytest.raises(BadMessage, match="both kinds"):
        Reveal(1, (Share(1, 5), Share(2, 5)), (Share(2, 6),))


def test_reported_bytes_are_the_bytes_of_the_messages() -> None:
    config = make_config(5, dim=1000)
    sizes = {client: [0, 0] for client in config.clients}

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        client, column = (destination, 1) if source == -1 else (source, 0)
        sizes[client][column] += len(encode(message, config))

    result = run_local(config, random_vectors(config), tap=tap)
    assert {client: [result.upload_bytes[client], result.download_bytes[client]] for client in sizes} == sizes
    # 24-bit words: 3000 bytes, and a few hundred for keys and shares of four peers.
    assert all(3000 < up < 4000 for up in result.upload_bytes.values())

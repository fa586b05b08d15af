"""Bytes on the wire: one encoding per message, everything else refused, nothing else raised."""

import contextlib
import copy
import random
from dataclasses import replace

import pytest
from secagg_harness import Federation, finished_federation, make_config, random_vectors, run_local

from secagg.client import TRANSITIONS
from secagg.errors import BadMessage, SecAggError
from secagg.messages import Advertise, Delivery, Message, Reveal, Roster, Sealed, Share, Shares, UnmaskRequest
from secagg.shamir import PRIME
from secagg.wire import decode, encode

CONFIG = make_config(5, dim=9)
MESSAGES = finished_federation(CONFIG, absent=(CONFIG.clients[-1],)).messages()
each_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)


def test_the_examples_cover_every_message_type() -> None:
    assert {type(message) for message in MESSAGES} == set(Message.__args__)
    reveal = next(message for message in MESSAGES if isinstance(message, Reveal))
    assert len(reveal.self_mask_seeds) == 4
    assert len(reveal.mask_secrets) == 1


@each_message
def test_decoding_inverts_encoding(message: Message) -> None:
    assert decode(encode(message, CONFIG), CONFIG) == message


@each_message
def test_every_shorter_prefix_and_every_extra_byte_is_refused(message: Message) -> None:
    data = encode(message, CONFIG)
    for end in range(len(data)):
        with pytest.raises(BadMessage):
            decode(data[:end], CONFIG)
    for extra in (b"\x00", b"\xff", data):
        with pytest.raises(BadMessage):
            decode(data + extra, CONFIG)


@each_message
def test_mutated_bytes_give_a_message_with_that_encoding_or_a_secagg_error(message: Message) -> None:
    rng = random.Random(17)
    data = encode(message, CONFIG)
    understood = 0
    for _ in range(600):
        mutated = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            start = 34 if rng.random() < 0.9 else 0  # mostly past the digest, which hides the rest
            mutated[rng.randrange(start, len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del mutated[rng.randrange(len(mutated)) :]
        try:
            decoded = decode(bytes(mutated), CONFIG)
        except SecAggError:
            continue
        understood += 1
        assert encode(decoded, CONFIG) == bytes(mutated)
    assert understood > 10


def test_random_bytes_give_a_message_with_that_encoding_or_a_secagg_error() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        header = bytes([1, rng.randrange(9)]) + CONFIG.digest() if rng.random() < 0.8 else b""
        data = header + rng.randbytes(rng.randrange(200))
        try:
            assert encode(decode(data, CONFIG), CONFIG) == data
        except SecAggError:
            continue


def mutations(message: Message, count: int) -> list[Message]:
    """Messages that decode, made from the bytes of `message` by changing some after the digest."""
    rng = random.Random(23)
    data, found = encode(message, CONFIG), []
    while len(found) < count:
        mutated = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            mutated[rng.randrange(34, len(data))] = rng.randrange(256)
        with contextlib.suppress(SecAggError):
            found.append(decode(bytes(mutated), CONFIG))
    return found


@each_message
def test_a_party_that_is_given_mutated_messages_raises_secagg_errors_only(message: Message) -> None:
    federation = Federation(CONFIG)
    states = []
    advance = (
        federation.advertise,
        federation.share,
        federation.deliver,
        lambda: federation.mask(random_vectors(CONFIG), CONFIG.clients[-1:]),
        lambda: None,
    )
    for step in advance:
        states.append(federation.clients[CONFIG.clients[0]]._state)
        for mutated in mutations(message, 40):
            with contextlib.suppress(SecAggError):
                copy.deepcopy(federation.server).receive(mutated)
            transition = TRANSITIONS.get((type(states[-1]), type(mutated)))
            if transition is not None:
                with contextlib.suppress(SecAggError):
                    transition(CONFIG, CONFIG.clients[0], states[-1], mutated)
        step()
    assert len({type(state) for state in states}) == 4  # every state that waits for something


@pytest.mark.parametrize(
    "other",
    [
        replace(CONFIG, round_index=8),
        replace(CONFIG, session=b"another session!"),
        replace(CONFIG, context=bytes([1]) * 32),
        replace(CONFIG, threshold=5),
    ],
    ids=["round", "session", "context", "threshold"],
)
@each_message
def test_a_message_of_another_round_is_refused(message: Message, other: object) -> None:
    with pytest.raises(BadMessage, match="another round"):
        decode(encode(message, other), CONFIG)  # type: ignore[arg-type]


def test_another_version_is_refused() -> None:
    data = bytearray(encode(MESSAGES[0], CONFIG))
    data[0] = 2
    with pytest.raises(BadMessage, match="version 2"):
        decode(bytes(data), CONFIG)


def test_a_count_beyond_the_roster_is_refused_before_anything_is_read() -> None:
    header = bytes([1, 6]) + CONFIG.digest()
    with pytest.raises(BadMessage, match="a list of 4294967295 in a round of 5 clients"):
        decode(header + b"\xff\xff\xff\xff", CONFIG)


KEY, OTHER_KEY = bytes(32), bytes([1]) * 32


@pytest.mark.parametrize(
    "construct",
    [
        lambda: Advertise(-1, KEY, OTHER_KEY),
        lambda: Advertise(2**32, KEY, OTHER_KEY),
        lambda: Advertise(1, KEY[:31], OTHER_KEY),
        lambda: Advertise(1, KEY, OTHER_KEY + b"x"),
        lambda: Roster((Advertise(2, KEY, KEY), Advertise(1, KEY, KEY))),
        lambda: Roster((Advertise(2, KEY, KEY), Advertise(2, KEY, KEY))),
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

    def tap(source: int, destination: int, message: Message) -> None:
        client, column = (destination, 1) if source == -1 else (source, 0)
        sizes[client][column] += len(encode(message, config))

    result = run_local(config, random_vectors(config), tap=tap)
    assert {client: [result.upload_bytes[client], result.download_bytes[client]] for client in sizes} == sizes
    # 24-bit words: 3000 bytes, and a few hundred for keys and shares of four peers.
    assert all(3000 < up < 4000 for up in result.upload_bytes.values())

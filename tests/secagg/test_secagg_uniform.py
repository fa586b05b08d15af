"""What the server sees of one client is uniform, whatever the vector: by bit, by byte, in every message.

test_secagg_secrecy.py looks at the bytes of masked vectors. Here every bit position of a word, neighbouring words, the
sum of all ones (which a small bias moves most), and the other messages; each statistic with the bias that it rejects.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from secagg_harness import fixed_entropy, make_config, run_local

from secagg import Mode, RoundConfig, Stage
from secagg.local import LocalRound
from secagg.messages import Advertise, MaskedVector, Message, Reveal, Share, Shares
from secagg.shamir import PRIME

LIMIT = 6.0  # standard deviations: chance 2e-9 each
WORDS = 400_000
Bits = NDArray[np.uint8]  # [words, bits], least significant bit first


def masked_vector(bits: int, value: int) -> bytes:
    """The masked vector of a client whose every coordinate is `value`, as are those of all the others."""
    config = make_config(3, dim=WORDS, bits=bits, threshold=2)
    sent: dict[int, bytes] = {}

    def tap(source: int, destination: int, message: Message, size: int) -> None:
        if isinstance(message, MaskedVector):
            sent[source] = message.packed

    local = LocalRound(config, {}, entropy=fixed_entropy(b"%d" % value), tap=tap)
    client = local.open()[1]
    local.submit(client, np.full(WORDS, value))
    return sent[client]


def as_bits(packed: bytes, bits: int) -> Bits:
    return np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little").reshape(-1, bits)


def ones(bits: Bits) -> float:
    """All ones together."""
    return float((bits.mean() - 0.5) * 2 * bits.size**0.5)


def ones_by_position(bits: Bits) -> float:
    return float(np.abs((bits.mean(axis=0) - 0.5) * 2 * len(bits) ** 0.5).max())


def ones_by_period(bits: Bits) -> float:
    """Ones in the words whose place is the same modulo 200: where every 200th word is wrong."""
    whole = bits[: len(bits) // 200 * 200].reshape(-1, 200 * bits.shape[1]).reshape(-1, 200, bits.shape[1])
    means = whole.mean(axis=(0, 2))
    return float(np.abs((means - 0.5) * 2 * (whole.shape[0] * bits.shape[1]) ** 0.5).max())


def equal_neighbors(bits: Bits) -> float:
    """Bits that are the same in a word and the next: a counter or a constant under a short mask would show."""
    same = bits[1:] == bits[:-1]
    return float(np.abs((same.mean(axis=0) - 0.5) * 2 * len(same) ** 0.5).max())


def bytes_by_place(bits: Bits) -> float:
    """Chi-square of the values of each byte of a word, as standard deviations from its mean of 255."""
    columns = np.packbits(bits, axis=1, bitorder="little").T
    expected = len(bits) / 256
    squares = [((np.bincount(column, minlength=256) - expected) ** 2 / expected).sum() for column in columns]
    return float(max(abs(square - 255) / 510**0.5 for square in squares))


STATISTICS: dict[str, Callable[[Bits], float]] = {
    function.__name__: function
    for function in (ones, ones_by_position, ones_by_period, equal_neighbors, bytes_by_place)
}


def adversarial(bits: int) -> tuple[int, ...]:
    """Nothing, all ones, half of the ring, and a pattern."""
    return 0, -1, 2 ** (bits - 1), 0x55555555 % 2**bits


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_masked_words_of_constant_vectors_are_uniform_in_every_bit_and_byte(bits: int) -> None:
    for value in adversarial(bits):
        words = as_bits(masked_vector(bits, value), bits)
        assert words.shape == (WORDS, bits)
        found = {name: statistic(words) for name, statistic in STATISTICS.items()}
        assert all(abs(deviation) < LIMIT for deviation in found.values()), (value, found)


def biased(words: Bits, kind: str) -> Bits:
    """The same words with one in two hundred of them, or of their bits, changed."""
    bad = words.copy()
    rng = np.random.default_rng(7)
    if kind == "every 200th word is zero":
        bad[::200] = 0
    elif kind == "a random word in 200 is zero":
        bad[rng.random(len(bad)) < 1 / 200] = 0
    elif kind == "a random byte in 200 is zero":
        view = bad.reshape(len(bad), -1, 8)
        view[rng.random(view.shape[:2]) < 1 / 200] = 0
    elif kind == "a random word in 200 repeats the one before":
        again = np.flatnonzero(rng.random(len(bad)) < 1 / 100)[1:]  # half of the bits are the same anyway
        bad[again] = bad[again - 1]
    return bad


CAUGHT_BY = {
    "every 200th word is zero": {"ones", "ones_by_period", "bytes_by_place"},
    "a random word in 200 is zero": {"ones", "bytes_by_place"},
    "a random byte in 200 is zero": {"ones", "bytes_by_place"},
    "a random word in 200 repeats the one before": {"equal_neighbors"},
}


@pytest.mark.parametrize("kind", CAUGHT_BY)
@pytest.mark.parametrize("bits", [16, 24, 32])
def test_a_bias_of_one_in_two_hundred_is_rejected(bits: int, kind: str) -> None:
    words = biased(as_bits(masked_vector(bits, 0), bits), kind)
    caught = {name for name, statistic in STATISTICS.items() if abs(statistic(words)) > LIMIT}
    assert caught >= CAUGHT_BY[kind]


def test_one_slightly_unfair_bit_of_a_word_is_rejected() -> None:
    words = as_bits(masked_vector(24, 0), 24).copy()
    flip = np.random.default_rng(3).random(WORDS) < 0.02
    words[flip, 23] = 1  # 51 % ones
    assert abs(ones_by_position(words)) > LIMIT


# The other messages of one client, over many rounds


def messages_of_one(config: RoundConfig, count: int) -> Iterator[Message]:
    """All that one client sends in `count` rounds, in which it always has the same vector and entropy is fresh."""
    for index in range(count):
        sent: list[Message] = []

        def tap(source: int, destination: int, message: Message, size: int, sent: list[Message] = sent) -> None:
            if source == config.clients[1]:
                sent.append(message)

        vectors = {client: np.zeros(config.dim, np.int64) for client in config.clients}
        run_local(
            config, vectors, {config.clients[0]: Stage.AFTER_SHARES}, tap=tap, entropy=fixed_entropy(b"%d" % index)
        )
        yield from sent


@pytest.mark.parametrize("mode", Mode)
def test_everything_else_that_one_client_sends_is_uniform_too(mode: Mode) -> None:
    """Public keys (but for the top bit, which is zero), commitments, ciphertexts, and the shares that it reveals."""
    streams: dict[str, list[bytes]] = {}
    for message in messages_of_one(make_config(4, dim=8, threshold=3, mode=mode), 60):
        found: dict[str, list[bytes]] = {}
        match message:
            case Advertise():  # a public key is a number below 2^255: its last bit is always zero
                found = {"public keys": [message.channel_key, message.mask_key]}
            case Shares(_, commitment, sealed):
                found = {"commitment": [commitment], "sealed": [item.ciphertext for item in sealed]}
            case MaskedVector(_, packed):
                found = {"masked": [packed]}
            case Reveal(_, seeds, secrets):
                found = {"seeds": [low(share) for share in seeds], "secrets": [low(share) for share in secrets]}
        for name, parts in found.items():
            streams.setdefault(name, []).extend(parts)
    assert streams.keys() == {"public keys", "commitment", "sealed", "masked", "seeds", "secrets"}
    for name, parts in streams.items():
        bits = np.unpackbits(np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), -1), axis=1)
        assert len(set(parts)) == len(parts), name
        if name == "public keys":
            assert not bits[:, 248].any()
            bits = np.delete(bits, 248, axis=1)
        assert abs(ones(bits)) < LIMIT, name
        assert ones_by_position(bits) < LIMIT, name
        assert ones_by_position(np.concatenate([bits, np.zeros_like(bits)])) > LIMIT, name  # half of them zero: seen


def low(share: Share) -> bytes:
    """The low 256 bits; the one above is set for 297 of about 2^256 values."""
    assert share.value < PRIME
    return (share.value % 2**256).to_bytes(32, "big")

"""The k-regular graph: what it is, that every client draws it for itself, and which graphs a client refuses."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pytest
from secagg_harness import Federation, fixed_entropy, identities, make_config, random_vectors, run_local
from secagg_hostile import make_clients, on, play

from secagg import Client, Mode, PeerMisbehaved, RoundConfig, Stage, TooFewSurvivors, from_ring
from secagg.client_steps import AwaitDelivery
from secagg.graph import Graph, key_hash, roster_hash
from secagg.messages import Advertise, Delivery, PeerKeys, Shares
from secagg.server import CollectShares, CollectVectors
from secagg.server_steps import _recoverable

CONFIG = make_config(11, neighbors=6, threshold=4)
SIGNED = make_config(11, neighbors=6, threshold=4, mode=Mode.MALICIOUS_SERVER)
BOTH = {"semi-honest": CONFIG, "malicious server": SIGNED}
each_mode = pytest.mark.parametrize("config", BOTH.values(), ids=BOTH)


def graph_of(n: int, k: int, seed: bytes) -> Graph:
    config = make_config(n, neighbors=k, threshold=k)
    return Graph.build(config, config.clients, seed)


# What it is


@pytest.mark.parametrize(("n", "k"), [(4, 2), (5, 2), (6, 4), (11, 6), (30, 12), (101, 40), (64, 62)])
def test_everyone_has_k_neighbours_ascending_and_mutual_and_never_itself(n: int, k: int) -> None:
    draw = fixed_entropy(b"graph")
    for _ in range(20):
        graph = graph_of(n, k, draw(32))
        neighbors = {client: graph.neighbors(client) for client in graph.clients}
        for client, peers in neighbors.items():
            assert len(peers) == k
            assert list(peers) == sorted(set(peers) - {client})
            assert all(client in neighbors[peer] for peer in peers)
            assert graph.holders(client) == peers  # nobody holds a share of its own
        assert reached(neighbors, graph.clients[0]) == set(graph.clients)


def reached(neighbors: dict[int, tuple[int, ...]], start: int) -> set[int]:
    todo, seen = [start], {start}
    while todo:
        new = set(neighbors[todo.pop()]) - seen
        seen |= new
        todo += new
    return seen


def test_in_the_complete_graph_everyone_is_a_neighbour_and_holds_a_share_of_its_own_too() -> None:
    config = make_config(7)
    graph = Graph.build(config, config.clients, bytes(32))
    for client in config.clients:
        assert graph.neighbors(client) == tuple(c for c in config.clients if c != client)
        assert graph.holders(client) == config.clients


@pytest.mark.parametrize("present", range(4, 9))
def test_with_few_left_everyone_is_a_neighbour_and_still_holds_no_share_of_its_own(present: int) -> None:
    clients = CONFIG.clients[:present]
    graph = Graph.build(CONFIG, clients, bytes(32))
    for client in clients:
        others = tuple(c for c in clients if c != client)
        assert (graph.neighbors(client) == others) == (present <= 7)
        assert len(graph.neighbors(client)) == min(6, present - 1)
        assert graph.holders(client) == graph.neighbors(client)


@each_mode
def test_every_client_computes_the_servers_graph_from_the_hashes_alone(config: RoundConfig) -> None:
    federation = Federation(config).advertise()
    reference = federation.server._state.graph  # type: ignore[union-attr]
    hashes = b"".join(
        key_hash(client, machine.greeting.channel_key, machine.greeting.mask_key)
        for client, machine in federation.clients.items()
    )
    seed = roster_hash(config, config.clients, hashes)
    federation.share()
    for client, machine in federation.clients.items():
        assert isinstance(machine._state, AwaitDelivery)
        assert machine._state.graph.seed == reference.seed == seed
        assert machine._state.mask_keys.keys() == set(reference.neighbors(client))
        assert machine._state.graph.neighbors(config.clients[-1]) == reference.neighbors(config.clients[-1])


def test_the_seed_changes_with_every_key_of_every_client_with_who_is_there_and_with_the_round() -> None:
    entries = [client.greeting for client in make_clients(CONFIG).values()]

    def seed(entries: Iterable[Advertise], config: RoundConfig = CONFIG) -> bytes:
        entries = list(entries)
        return roster_hash(config, [e.client for e in entries], b"".join(e.key_hash() for e in entries))

    seeds = {seed(entries), seed(entries, replace(CONFIG, round_index=8)), seed(entries[1:]), seed(entries[:-1])}
    for i, entry in enumerate(entries):
        for change in ({"channel_key": bytes(32)}, {"mask_key": bytes(32)}):
            seeds.add(seed([*entries[:i], replace(entry, **change), *entries[i + 1 :]]))
    assert len(seeds) == 4 + 2 * len(entries)


def test_other_keys_of_one_client_give_another_graph() -> None:
    first = make_clients(CONFIG)
    graphs = set()
    for i in range(8):
        clients = {**first, CONFIG.clients[4]: Client(CONFIG, CONFIG.clients[4], entropy=fixed_entropy(b"%d" % i))}
        hashes = b"".join(client.greeting.key_hash() for client in clients.values())
        graphs.add(Graph.build(CONFIG, CONFIG.clients, roster_hash(CONFIG, CONFIG.clients, hashes))._ring)
    assert len(graphs) == 8


# Uniform enough

N, K, DRAWS = 12, 4, 3000
PAIRS = list(combinations(make_config(N).clients, 2))


def drawn_graphs() -> list[Graph]:
    draw = fixed_entropy(b"uniform")
    return [graph_of(N, K, draw(32)) for _ in range(DRAWS)]


def worst_pair(graphs: list[Graph]) -> float:
    """The largest deviation, in standard deviations, of how often a pair of clients are neighbours."""
    counts = Counter(
        pair for graph in graphs for c in graph.clients for p in graph.neighbors(c) if (pair := (c, p)) and c < p
    )
    p = K / (N - 1)
    deviation = (len(graphs) * p * (1 - p)) ** 0.5
    return max(abs(counts[pair] - len(graphs) * p) / deviation for pair in PAIRS)


def marked_neighbors(graphs: list[Graph], marked: set[int]) -> float:
    """Chi-square of the number of marked neighbours of the first client against the hypergeometric law, and its df."""
    counts = Counter(len(marked & set(graph.neighbors(graph.clients[0]))) for graph in graphs)
    m, others = len(marked), N - 1
    expected = [len(graphs) * comb(m, x) * comb(others - m, K - x) / comb(others, K) for x in range(min(K, m) + 1)]
    assert min(expected) > 5
    return sum((counts[x] - e) ** 2 / e for x, e in enumerate(expected))


def test_every_pair_is_a_neighbour_equally_often() -> None:
    assert worst_pair(drawn_graphs()) < 5  # 66 pairs: chance about 4e-5


def test_the_number_of_corrupted_neighbours_is_hypergeometric() -> None:
    clients = make_config(N).clients
    for marked in (set(clients[1:5]), set(clients[-5:])):  # neighbours in the roster, where a bad shuffle would show
        assert marked_neighbors(drawn_graphs(), marked) < 30  # 4 degrees of freedom: chance 5e-6


@pytest.mark.parametrize("shuffle", ["none", "rotation", "halves", "one card in twenty left"])
def test_the_statistics_reject_a_ring_that_is_not_shuffled_well(shuffle: str) -> None:
    rng = np.random.default_rng(1)
    clients = make_config(N).clients

    def ring() -> tuple[int, ...]:
        order = list(clients)
        if shuffle == "rotation":
            order = np.roll(order, rng.integers(N)).tolist()
        elif shuffle == "halves":
            order = [*rng.permutation(clients[:6]).tolist(), *rng.permutation(clients[6:]).tolist()]
        elif shuffle == "one card in twenty left" and rng.random() > 0.1:
            order = rng.permutation(clients).tolist()
        return tuple(order)

    graphs = []
    for _ in range(DRAWS):
        order = ring()
        graphs.append(Graph(clients, bytes(32), K, order, {c: i for i, c in enumerate(order)}))
    assert worst_pair(graphs) > 5


def test_good_shuffles_of_another_generator_pass_the_same_statistics() -> None:
    rng = np.random.default_rng(2)
    clients = make_config(N).clients
    graphs = []
    for _ in range(DRAWS):
        order = tuple(rng.permutation(clients).tolist())
        graphs.append(Graph(clients, bytes(32), K, order, {c: i for i, c in enumerate(order)}))
    assert worst_pair(graphs) < 5
    assert marked_neighbors(graphs, set(clients[1:5])) < 30


# What a client refuses


def relisted(keys: PeerKeys, client: int, new: bytes) -> PeerKeys:
    """The same message with another hash for one client."""
    place = 32 * keys.present.index(client)
    return replace(keys, hashes=keys.hashes[:place] + new + keys.hashes[place + 32 :])


def me_and_peers(federation: Federation) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """A client, its neighbours, and those who are not."""
    me = federation.config.clients[0]
    peers = federation.server._state.graph.neighbors(me)  # type: ignore[union-attr]
    return me, peers, tuple(c for c in federation.config.clients if c != me and c not in peers)


LIES: dict[str, tuple[Callable[[PeerKeys, int, int, int, Federation], PeerKeys], str]] = {
    "own hash altered": (lambda k, me, peer, far, f: relisted(k, me, bytes(32)), "keys of client {me} do not fit"),
    "a neighbour's hash altered": (
        lambda k, me, peer, far, f: relisted(k, peer, bytes(32)),
        "keys of client {peer} do not fit their hash",
    ),
    "a hash missing": (lambda k, me, peer, far, f: replace(k, hashes=b""), "does not show a hash of everyone's keys"),
    "a neighbour's keys missing": (
        lambda k, me, peer, far, f: replace(k, entries=tuple(e for e in k.entries if e.client != peer)),
        "does not show client {me} the keys of exactly its neighbours",
    ),
    "keys of one more": (
        lambda k, me, peer, far, f: replace(
            k, entries=tuple(sorted((*k.entries, f.clients[far].greeting), key=lambda e: e.client))
        ),
        "does not show client {me} the keys of exactly its neighbours",
    ),
    "a stranger for a neighbour": (
        lambda k, me, peer, far, f: replace(
            k,
            entries=tuple(
                sorted((*(e for e in k.entries if e.client != peer), f.clients[far].greeting), key=lambda e: e.client)
            ),
        ),
        "does not show client {me} the keys of exactly its neighbours",
    ),
    "a client that is not in the roster": (
        lambda k, me, peer, far, f: replace(k, present=(*k.present, 999), hashes=k.hashes + bytes(32)),
        "names a client that is not in the roster",
    ),
    "itself left out": (
        lambda k, me, peer, far, f: replace(k, present=k.present[1:], hashes=k.hashes[32:]),
        "client {me}",
    ),
}


@pytest.mark.parametrize("lie", LIES)
@each_mode
def test_a_client_refuses_keys_that_do_not_make_its_own_neighbourhood(config: RoundConfig, lie: str) -> None:
    alter, text = LIES[lie]
    federation = Federation(config).advertise()
    me, peers, far = me_and_peers(federation)
    told = alter(federation.keys(me), me, peers[1], far[0], federation)
    with pytest.raises(PeerMisbehaved, match=text.format(me=me, peer=peers[1])):
        federation.clients[me].receive(told)


def test_in_the_complete_graph_too_a_client_that_is_left_out_of_those_present_refuses() -> None:
    federation = Federation(make_config(7)).advertise()
    keys = federation.keys()
    with pytest.raises(PeerMisbehaved, match="client 10"):
        federation.clients[10].receive(replace(keys, present=keys.present[1:]))


@each_mode
def test_a_neighbourhood_that_does_not_follow_from_the_hashes_is_refused(config: RoundConfig) -> None:
    """The server would like to put its own clients around the victim: it shows their keys, and the true hashes."""
    federation = Federation(config).advertise()
    me, _, _ = me_and_peers(federation)
    wanted = sorted((me, *config.clients[-6:]))
    entries = tuple(federation.clients[c].greeting for c in wanted)
    with pytest.raises(PeerMisbehaved, match=f"does not show client {me} the keys of exactly its neighbours"):
        federation.clients[me].receive(replace(federation.keys(me), entries=entries))


def other_list(federation: Federation, me: int) -> PeerKeys:
    """A consistent lie: another hash for someone far away, and the neighbourhood that follows for `me` from it."""
    config, keys, far = federation.config, federation.keys(me), me_and_peers(federation)[2]
    for i in range(1000):
        hashes = relisted(keys, far[0], bytes(28) + i.to_bytes(4, "big")).hashes
        graph = Graph.build(config, keys.present, roster_hash(config, keys.present, hashes))
        peers = graph.neighbors(me)
        if far[0] not in peers:  # its own keys would not fit the false hash
            entries = tuple(federation.clients[c].greeting for c in sorted((me, *peers)))
            return PeerKeys(keys.present, hashes, entries)
    raise AssertionError("no such graph")


def test_two_clients_that_were_shown_different_hash_lists_never_give_a_usable_sum() -> None:
    """Semi-honest mode, where nobody compares: the server's own rules refuse the shares of the other graph."""
    federation = Federation(CONFIG).advertise()
    me = CONFIG.clients[0]
    reply = federation.clients[me].receive(other_list(federation, me))
    assert isinstance(reply, Shares)
    with pytest.raises(PeerMisbehaved, match=f"client {me} did not share with exactly its neighbours"):
        federation.server.receive(reply)
    assert me not in finish_shares(federation, without=me)  # the round goes on without it


def finish_shares(federation: Federation, without: int) -> dict[int, Delivery]:
    for client, message in federation.peer_keys.items():
        if client != without:
            federation.server.receive(federation.clients[client].receive(message))  # type: ignore[arg-type]
    return dict(federation.server.deadline())  # type: ignore[arg-type]


def same_neighborhood(federation: Federation, me: int) -> PeerKeys:
    """The stealthiest lie: another hash list for `me` alone that gives it exactly the neighbours it has."""
    config, keys = federation.config, federation.keys(me)
    _, peers, far = me_and_peers(federation)
    for i in range(200_000):
        hashes = relisted(keys, far[0], bytes(28) + i.to_bytes(4, "big")).hashes
        if Graph.build(config, keys.present, roster_hash(config, keys.present, hashes)).neighbors(me) == peers:
            return replace(keys, hashes=hashes)
    raise AssertionError("no such graph")


def test_a_signed_survivor_list_also_says_which_keys_were_seen() -> None:
    """Even when the false list leaves a client's neighbourhood as it was: its consent and theirs do not meet."""
    federation = Federation(SIGNED).advertise()
    me = SIGNED.clients[0]
    lie = same_neighborhood(federation, me)
    outcome = play(
        SIGNED,
        random_vectors(SIGNED),
        server=on(PeerKeys, lambda client, message: lie, clients=[me]),
        clients=make_clients(SIGNED),
    )
    assert [sender for sender, _ in outcome.refused] == [me]
    assert f"client {me}: the signature of its survivor list does not verify" in str(outcome.refused[0][1])
    assert me not in {reveal.client for reveal in outcome.reveals}
    assert set(outcome.refusals) <= set(SIGNED.clients) - {me}


# Too few


@pytest.mark.parametrize("threshold", [4, 6])
def test_a_client_with_fewer_than_threshold_neighbours_refuses_to_share(threshold: int) -> None:
    """With `threshold` clients left each has one neighbour fewer than that, and one more client is enough."""
    config = make_config(11, neighbors=6, threshold=threshold)
    for present, refused in ((threshold, True), (threshold + 1, False)):
        clients = {c: Client(config, c, entropy=fixed_entropy(b"%d" % c)) for c in config.clients[:present]}
        entries = tuple(client.greeting for client in clients.values())
        hashes = b"".join(entry.key_hash() for entry in entries)
        keys = PeerKeys(tuple(clients), hashes, entries)
        if refused:
            with pytest.raises(
                TooFewSurvivors, match=f"{present - 1} clients hold a share of its secrets, at least {present}"
            ):
                clients[config.clients[0]].receive(keys)
        else:
            assert isinstance(clients[config.clients[0]].receive(keys), Shares)


@each_mode
def test_with_fewer_present_than_the_solver_allows_neither_the_server_nor_a_client_goes_on(config: RoundConfig) -> None:
    """A server that keeps honest clients away would raise the share of its own among a victim's neighbours."""
    config = replace(config, least_present=10)
    signing = identities(config)
    for present, enough in ((9, False), (10, True)):
        clients = {c: Client(config, c, identity=signing.get(c)) for c in config.clients[:present]}
        server = Federation(config).server
        for client in clients.values():
            server.receive(client.greeting)
        entries = tuple(client.greeting for client in clients.values())
        hashes = b"".join(entry.key_hash() for entry in entries)
        seed = roster_hash(config, tuple(clients), hashes)
        peers = Graph.build(config, tuple(clients), seed).neighbors(config.clients[0])
        shown = tuple(e for e in entries if e.client in (config.clients[0], *peers))
        if enough:
            assert len(server.deadline()) == 10
            assert isinstance(clients[config.clients[0]].receive(PeerKeys(tuple(clients), hashes, shown)), Shares)
            continue
        with pytest.raises(TooFewSurvivors, match="9 clients advertised keys, at least 10 are needed"):
            server.deadline()
        with pytest.raises(TooFewSurvivors, match="9 clients advertised keys, at least 10 are needed"):
            clients[config.clients[0]].receive(PeerKeys(tuple(clients), hashes, shown))


def around(federation: Federation, center: int) -> tuple[int, ...]:
    neighbors: tuple[int, ...] = federation.server._state.graph.neighbors(center)  # type: ignore[union-attr]
    return neighbors


def test_clients_whose_neighbours_did_not_share_are_left_out_before_delivery_and_the_sum_is_that_of_the_others() -> (
    None
):
    config = make_config(20, neighbors=6, threshold=3)
    vectors = random_vectors(config)
    federation = Federation(config).advertise()
    lonely = config.clients[0]
    silent = around(federation, lonely)[:4]  # two of its six neighbours are left, three are needed
    for client, message in federation.peer_keys.items():
        if client not in silent:
            federation.server.receive(federation.clients[client].receive(message))  # type: ignore[arg-type]
    state = federation.server._state
    assert isinstance(state, CollectShares)
    kept = closed_core(state.graph, set(state.shares), 3)
    assert lonely in state.shares and lonely not in kept and len(kept) > 8
    federation.deliveries = federation.server.deadline()
    assert set(federation.deliveries) == kept
    assert isinstance(federation.server._state, CollectVectors)
    federation.deliver().mask(vectors, absent=tuple(set(config.clients) - kept)).reveal().server.deadline()
    assert set(federation.server.total.survivors) == kept
    assert set(dict(federation.server.total.dropped)) == set(config.clients) - kept
    expected = np.sum([vectors[client] for client in kept], axis=0)
    assert np.array_equal(from_ring(federation.server.total.vector, config.bits), expected)


def test_a_client_that_the_server_leaves_out_is_not_expected_to_submit() -> None:
    """Over 20 graphs; in some of them six lost clients leave another one with too few neighbours."""
    isolated = 0
    for index in range(20):
        config = make_config(20, neighbors=6, threshold=3, round_index=index)
        lost = np.random.default_rng(index).choice(config.clients, 6, replace=False).tolist()
        try:
            result = run_local(config, random_vectors(config), dict.fromkeys(lost, Stage.AFTER_KEYS))
        except TooFewSurvivors:
            continue
        missing = set(config.clients) - set(result.survivors)
        assert missing >= set(lost)
        assert {client for client, _ in result.dropped} == missing
        isolated += missing > set(lost)
        expected = np.sum([random_vectors(config)[client] for client in result.survivors], axis=0)
        assert np.array_equal(result.vector, expected)
    assert isolated > 2


def test_the_server_ends_a_round_in_which_nobody_could_be_recovered() -> None:
    config = make_config(20, neighbors=6, threshold=4)  # half of them lost on one side unravels the ring
    federation = Federation(config).advertise()
    silent = around(federation, config.clients[0])[:3]
    for client, message in federation.peer_keys.items():
        if client not in silent:
            federation.server.receive(federation.clients[client].receive(message))  # type: ignore[arg-type]
    with pytest.raises(TooFewSurvivors, match="0 clients shared their secrets, at least 4"):
        federation.server.deadline()


def closed_core(graph: Graph, shared: set[int], threshold: int) -> set[int]:
    """The largest part of `shared` in which everyone has `threshold` neighbours: remove one at a time, from the end."""
    kept = set(shared)
    while lost := [c for c in sorted(kept, reverse=True) if len(kept & set(graph.neighbors(c))) < threshold]:
        kept.remove(lost[0])
    return kept


def test_what_cannot_be_recovered_is_left_out_whatever_the_graph() -> None:
    """Against the oracle that removes one client at a time, over many graphs and losses; every outcome occurs."""
    rng = np.random.default_rng(4)
    draw = fixed_entropy(b"recover")
    config = make_config(20, neighbors=6, threshold=3)
    outcomes: Counter[str] = Counter()
    for _ in range(300):
        graph = Graph.build(config, config.clients, draw(32))
        shared = set(rng.choice(config.clients, rng.integers(8, 21), replace=False).tolist())
        kept = closed_core(graph, shared, 3)
        assert _recoverable(config, graph, shared) == kept
        outcomes["all" if kept == shared else "some" if kept else "none"] += 1
    assert min(outcomes[kind] for kind in ("all", "some", "none")) > 10


@each_mode
@pytest.mark.parametrize("stage", [Stage.BEFORE_KEYS, Stage.AFTER_KEYS])
@pytest.mark.parametrize("count", range(5))
def test_early_drop_outs_leave_the_sum_of_the_others(config: RoundConfig, stage: Stage, count: int) -> None:
    """Flower's protocol ends there. With few left the graph is drawn over those, or is the complete one."""
    vectors = random_vectors(config)
    lost = config.clients[1 : 1 + count]
    try:
        result = run_local(config, vectors, dict.fromkeys(lost, stage))
    except TooFewSurvivors:
        assert stage is Stage.AFTER_KEYS and count >= 3  # fewer than three cannot isolate anyone: 6 - 2 = threshold
        return
    assert set(config.clients) - set(result.survivors) >= set(lost)
    if stage is Stage.BEFORE_KEYS or count <= 2:
        assert result.survivors == tuple(c for c in config.clients if c not in lost)
    assert np.array_equal(result.vector, sum(vectors[client] for client in result.survivors))


def test_a_client_is_told_the_keys_of_its_neighbours_and_of_nobody_else() -> None:
    federation = Federation(SIGNED).advertise()
    me, peers, far = me_and_peers(federation)
    assert {entry.client for entry in federation.keys(me).entries} == {me, *peers}
    assert len(far) == 4

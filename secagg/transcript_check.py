"""Checking a transcript offline, from its lines alone and, better, with a roster from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from secagg.config import RoundConfig
from secagg.transcript_json import line_hash
from secagg.transcript_lines import from_lines
from secagg.transcript_record import Aborted, Header, Released, Transcript
from secagg.transcript_rules import RULES, header_findings, roster_findings
from secagg.transcript_view import View, last_stage, view_of


class Verdict(Enum):
    """On one guarantee."""

    HELD = "held"
    BROKEN = "broken"
    OTHER_MODE = "not in this mode"
    NOT_CHECKED = "not checked"  # no roster was given, no sum was reached, or the configuration is not valid


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One thing that a round should have given; `text` says what, `findings` what is wrong, in one line each."""

    name: str
    verdict: Verdict
    text: str
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """What a transcript shows, and what it cannot.

    guarantees: in the order of the checks. cannot_show: what no transcript of this mode can show.
    head: SHA-256 of the last line in hexadecimal; it stands for the whole file.
    config: None if the file names no valid one; then nothing after it was checked. transcript: None if the lines
    are not those of one round.
    """

    guarantees: tuple[Guarantee, ...]
    cannot_show: tuple[str, ...]
    head: str
    config: RoundConfig | None = field(repr=False)
    transcript: Transcript | None = field(repr=False)

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that is wrong, each with the name of its guarantee in front."""
        return tuple(f"{one.name}: {finding}" for one in self.guarantees for finding in one.findings)

    @property
    def ok(self) -> bool:
        """Whether no guarantee is broken."""
        return not self.findings

    @property
    def aborted(self) -> str | None:
        """The class of the error that ended the round, if it gave no sum."""
        outcome = self.transcript.outcome if self.transcript is not None else None
        return outcome.error if isinstance(outcome, Aborted) else None

    @property
    def sum_sha256(self) -> str | None:
        """Of the sum, int64[dim] little-endian, in hexadecimal; compare it with `transcript.sum_hash` of yours."""
        outcome = self.transcript.outcome if self.transcript is not None else None
        return outcome.sha256.hex() if isinstance(outcome, Released) else None


def check(lines: Sequence[str], *, roster: Mapping[int, bytes] | None = None, client: int | None = None) -> Checked:
    """Everything that the lines of one transcript show.

    roster: identities (32 bytes) by client from a source that the server does not control. client: also say what
    the file claims about this client, who can compare it with its own memory.
    Raises BadMessage if a line is no line of a transcript; what is well formed and wrong is a finding.
    """
    transcript, problems = from_lines(lines)
    mode_problems = _consents_problem(transcript) if transcript is not None else ()
    chain = _decided("chain", CHAIN, (*problems, *mode_problems))
    config = _config(transcript.header) if transcript is not None else None
    header = _decided("configuration", CONFIGURATION, header_findings(transcript.header)) if transcript else None
    view = view_of(config, transcript) if config is not None and transcript is not None else None
    guarantees = [
        chain,
        header or Guarantee("configuration", Verdict.NOT_CHECKED, CONFIGURATION),
        _roster(view, roster),
        *_rules(view),
        *([_client(view, client)] if client is not None else []),
    ]
    limits = _cannot_show(config, roster is not None)
    return Checked(tuple(guarantees), limits, line_hash(lines[-1]) if lines else "", config, transcript)


CHAIN = "every line is in its one spelling, bound to the one before, and none is missing"
CONFIGURATION = "the configuration is within the protocol's bounds, and digest and binding are its own"
ROSTER = "the clients, and the identities that sign, are those of the roster, and nobody on it is left out"
OTHER_ROSTER = "the clients, or the identities that sign, differ from the roster"


def _config(header: Header) -> RoundConfig | None:
    try:
        return header.round_config()
    except ValueError:  # a finding of its own
        return None


def _consents_problem(transcript: Transcript) -> tuple[str, ...]:
    signed = transcript.consents is not None
    if signed == (transcript.header.mode.value == "malicious-server"):
        return ()
    return (f"signatures under U3 are {'there' if signed else 'missing'} in {transcript.header.mode.value} mode",)


def _roster(view: View | None, roster: Mapping[int, bytes] | None) -> Guarantee:
    if view is None or roster is None:
        return Guarantee("roster", Verdict.NOT_CHECKED, ROSTER)
    found = tuple(roster_findings(view, roster))
    return _decided("roster", OTHER_ROSTER if found else ROSTER, found)


def _rules(view: View | None) -> list[Guarantee]:
    guarantees = []
    for rule in RULES:
        if view is None or (rule.released and isinstance(view.transcript.outcome, Aborted)):
            guarantees.append(Guarantee(rule.name, Verdict.NOT_CHECKED, rule.text))
        elif rule.malicious and not view.config.malicious:
            guarantees.append(Guarantee(rule.name, Verdict.OTHER_MODE, rule.text))
        else:
            guarantees.append(_decided(rule.name, rule.text, rule.findings(view)))
    return guarantees


def _decided(name: str, text: str, findings: Iterable[str]) -> Guarantee:
    found = tuple(findings)
    return Guarantee(name, Verdict.BROKEN if found else Verdict.HELD, text, found)


def _client(view: View | None, client: int) -> Guarantee:
    """What the file claims about one client."""
    name = f"client {client}"
    if view is None:
        return Guarantee(name, Verdict.NOT_CHECKED, "what the file claims about it")
    if client not in view.config.clients:
        return _decided(name, "it takes part", [f"client {client} is not among the clients of this round"])
    seeds = sum(client in revealed.self_mask_seeds for revealed in view.revealed.values())
    secrets = sum(client in revealed.mask_secrets for revealed in view.revealed.values())
    stage = last_stage(view, client)
    inside = (
        f"its vector is in a sum with {len(view.survivors) - 1} others"
        if client in view.survivors
        else "its vector is in no sum"
    )
    if isinstance(view.transcript.outcome, Aborted):
        inside = "there is no sum"
    here = "it stayed to the end" if stage is None else f"it was last heard {stage.value.replace('_', ' ')}"
    text = f"{inside}; {here}; {seeds} holders gave shares of its self-mask seed, {secrets} of its mask secret"
    return Guarantee(name, Verdict.HELD, f"{text}: compare that with what it remembers")


_ALWAYS = (
    "that nothing else was sent: the parties may have talked outside these messages, and a round may lack a transcript",
    "that the vectors were what they should be: a masked vector cannot be looked into",
    "that the hash of the sum, the commitments and the shares left out are true: they are the server's word; "
    "compare the hash with the sum that was used",
    "what the sum tells about a vector in it, alone or together with the sums of other rounds",
    "that this is the file first written: anyone can write another; compare its head with a copy kept elsewhere",
)
_SEMI_HONEST = (
    "anything about a server that lies: nothing in semi-honest mode is signed, every line is the server's word alone",
)
_MALICIOUS = (
    "that clients are people apart: a server that fills the roster with clients of its own signs for all of them",
    "that answers and bytes are true: signatures cover the public keys, U3, the configuration and the model, no more",
)
_NO_ROSTER = "that the identities belong to the clients: check against a roster that the server does not control"


def _cannot_show(config: RoundConfig | None, with_roster: bool) -> tuple[str, ...]:
    if config is None:
        return _ALWAYS
    if not config.malicious:
        return (*_SEMI_HONEST, *_ALWAYS)
    return (*([] if with_roster else [_NO_ROSTER]), *_MALICIOUS, *_ALWAYS)

"""The examples in the documentation run as they stand, and what they print is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
NUMBER = r"([\d.]+)"


@lru_cache
def output_of(name: str) -> str:
    """Standard output of one example, run once for all tests of it."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """The groups of the one line that starts with `pattern`."""
    found = re.findall(f"^{pattern}", text, flags=re.MULTILINE)
    assert len(found) == 1, (pattern, text)
    return [float(value) for value in (found[0] if isinstance(found[0], tuple) else found)]


def plain_claim() -> float:
    return numbers(rf"claim: epsilon {NUMBER} \(pld\)", output_of("plain_opacus.py"))[0]


@pytest.mark.slow
def test_the_plain_loop_stays_within_its_budget_by_two_named_bounds() -> None:
    text = output_of("plain_opacus.py")
    by_pld, by_rdp = numbers(rf"claim: .*; pld {NUMBER}, rdp {NUMBER}$", text)
    assert plain_claim() == by_pld <= by_rdp
    assert 0.99 * 4.0 < by_pld <= 4.0
    assert numbers(rf"reserved: epsilon {NUMBER} of 4$", text) == [by_pld]
    (by_opacus,) = numbers(rf"opacus' own accountant: {NUMBER}$", text)
    assert by_opacus == pytest.approx(by_pld, rel=0.01)


@pytest.mark.slow
def test_the_plain_loops_ledger_verifies_and_refuses_a_second_run() -> None:
    text = output_of("plain_opacus.py")
    assert numbers(rf"ledger: ok True, epsilon {NUMBER}", text) == [plain_claim()]
    wanted, spent = numbers(rf"second run refused: .* epsilon to {NUMBER}, .*so far: {NUMBER}\)$", text)
    assert wanted > 4.0 >= spent == plain_claim()


@pytest.mark.slow
def test_the_plain_loops_sampler_is_attested_and_keeps_its_amplification() -> None:
    text = output_of("plain_opacus.py")
    assert "sampler: consistent (Poisson, rate 0.1, 100 steps" in text
    assert numbers(rf"attested claim: epsilon {NUMBER}$", text) == [plain_claim()]


@pytest.mark.slow
@pytest.mark.parametrize(("audit", "least"), [("white-box Dirac canaries", 0.5), ("noise attestation", 0.9)])
def test_the_attacks_on_the_plain_loop_come_near_the_claim_and_not_above(audit: str, least: float) -> None:
    text = output_of("plain_opacus.py")
    found, claim = numbers(rf"{audit}: lower bound {NUMBER}, claim {NUMBER}, consistent$", text)
    assert claim == plain_claim()
    assert least * claim < found <= claim


@pytest.mark.slow
def test_the_plain_example_says_what_it_does_not_check() -> None:
    text = output_of("plain_opacus.py")
    assert "A low lower bound is not evidence of privacy" in text
    missing = text.split("Not checked:")[1]
    for words in ("random generator", "floating-point", "mix rows", "hyper-parameters"):
        assert words in missing


@pytest.mark.slow
def test_every_broken_loop_is_caught_and_the_honest_one_is_not() -> None:
    lines = dict(line.split(": ", 1) for line in output_of("broken_opacus.py").splitlines() if ": " in line)
    assert lines.pop("honest") == "nothing found"
    for name in ("half of the noise", "noise for the mean", "clip of the batch mean"):
        shown, claim = (float(n) for n in re.findall(r"at least ([\d.]+), claimed ([\d.]+)", lines[name])[0])
        assert shown > 1.5 * claim
    found = lines["one step without noise"]  # the first finding is shown: of that step, or of all steps together
    assert "round 31 alone: standard deviation between 0 and 0" in found or "too little noise" in found
    assert "repeats itself" in lines["the same seed again"]
    assert lines["shuffled batches"].startswith("attestation: rejected")
    assert re.search(r"steps=10\b.* but .*steps=100\b", lines["steps counted as epochs"])
    assert "NOT CAUGHT" not in output_of("broken_opacus.py")
    assert "caught 7 of 7" in output_of("broken_opacus.py")

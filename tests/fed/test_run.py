"""Whole runs: resume loses nothing, charges are never refunded, files load without the product, faults stop the run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.cli import main
from fedpdpo_secure import round as round_module
from fedpdpo_secure.artefacts import RunFolderError
from fedpdpo_secure.checkpoint import load_checkpoint
from fedpdpo_secure.config import config_digest, load_config
from fedpdpo_secure.local import plain, private
from fedpdpo_secure.local.plan import NonFiniteError
from fedpdpo_secure.report import read_reports
from fedpdpo_secure.task import FedPDPO
from privacy.accounting import epsilon
from privacy.events import gaussian_event
from privacy.ledger_view import verify_dir
from secagg.transcript import read_transcript, transcript_path
from secagg.transcript_check import check
from tests.fed.runs import FREE, Recorder, run

SMALL = {
    "federation": {"clients": 3, "rounds": 3, "local_steps": 2},
    "synthetic": {"pairs": 16, "public_dialogues": 200},
}


def adapter(folder: Path) -> np.ndarray:
    config = load_config(folder / "config.yaml")
    return load_checkpoint(folder, config_digest(config)).shared


@pytest.mark.parametrize("stop_at", [(1, 2), (2, 3), (3, 1)])
@pytest.mark.parametrize("sections", [FREE, {"privacy": {"insecure_seed": 7}}], ids=["no privacy", "insecure seed"])
def test_a_resumed_run_gives_the_adapter_of_an_unbroken_one(tmp_path, sections, stop_at) -> None:
    run(tmp_path / "whole", **sections, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", **sections, **SMALL, progress=Recorder(stop_at=stop_at))
    run(tmp_path / "cut", **sections, **SMALL, resume=True)
    np.testing.assert_array_equal(adapter(tmp_path / "cut"), adapter(tmp_path / "whole"))
    whole, cut = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "cut"))
    assert whole["local, not released"] == cut["local, not released"]


def test_two_private_runs_of_one_configuration_differ(tmp_path) -> None:
    run(tmp_path / "a", **SMALL)
    run(tmp_path / "b", **SMALL)
    assert not np.array_equal(adapter(tmp_path / "a"), adapter(tmp_path / "b"))


def test_a_round_cut_after_its_reservation_stays_charged_and_the_budget_holds(tmp_path) -> None:
    private = {"privacy": {"epsilon": 8, "arithmetic": "float"}, **SMALL}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **private, progress=Recorder(stop_at=(2, 1)))
    recorder = Recorder()
    result = run(tmp_path, **private, resume=True, progress=recorder)
    assert result.stopped is not None and result.rounds == 2  # the third round would have overspent
    event = gaussian_event(noise_multiplier=recorder.info.noise_multiplier, sample_rate=0.5, steps=2)
    assert result.epsilon == pytest.approx(epsilon([event] * 3, 1e-5).epsilon)
    assert result.epsilon <= 8
    ledgers = verify_dir(tmp_path)
    assert len(ledgers) == 3 and all(ledger.ok for ledger in ledgers)
    assert {(ledger.reserved, ledger.committed) for ledger in ledgers} == {(3, 2)}


def test_an_interrupt_between_rounds_costs_nothing(tmp_path) -> None:
    class Stopping(Recorder):
        def round(self, report) -> None:
            super().round(report)
            if report.round_index == 2:
                raise KeyboardInterrupt

    private = {"privacy": {"epsilon": 8}, **SMALL}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", **private, progress=Stopping())
    cut = run(tmp_path / "cut", **private, resume=True)
    whole = run(tmp_path / "whole", **private)
    assert cut.rounds == whole.rounds == 3 and cut.stopped is None
    assert cut.epsilon == whole.epsilon
    assert [report.round_index for report in read_reports(tmp_path / "cut")] == [1, 2, 3]


def test_the_event_that_was_charged_must_be_the_one_that_was_trained(tmp_path, monkeypatch) -> None:
    original = private.PairDPSGD.event
    monkeypatch.setattr(
        private.PairDPSGD,
        "event",
        lambda self: gaussian_event(noise_multiplier=9.0, sample_rate=0.5, steps=original(self).steps),
    )
    with pytest.raises(round_module.EventMismatch, match="charged"):
        run(tmp_path, **SMALL)


LOADER = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fedpdpo_secure", "privacy", "secagg", "experiments"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/base_model")
model = PeftModel.from_pretrained(base, sys.argv[1] + "/shared_adapter")
tokens = torch.arange(5, 25)[None]
with torch.no_grad():
    logits = model(input_ids=tokens).logits
torch.save({"logits": logits, "lora": {n: p for n, p in model.named_parameters() if "lora_" in n}}, sys.argv[2])
"""


def test_the_shared_adapter_loads_in_plain_peft_without_the_product(tmp_path, monkeypatch) -> None:
    tasks: list[FedPDPO] = []
    original = FedPDPO.__init__

    def keeping(self, *args) -> None:
        original(self, *args)
        tasks.append(self)

    monkeypatch.setattr(FedPDPO, "__init__", keeping)
    run(tmp_path / "run", **SMALL)
    out = tmp_path / "loaded.pt"
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path / "run"), str(out)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    loaded = torch.load(out)
    tasks[0].set_lora(adapter(tmp_path / "run"))
    with torch.no_grad():
        expected = tasks[0].backbone.model(input_ids=torch.arange(5, 25)[None]).logits
    torch.testing.assert_close(loaded["logits"], expected)
    assert any(value.abs().max() > 0 for name, value in loaded["lora"].items() if "lora_B" in name)
    assert not list((tmp_path / "run" / "shared_adapter").glob("*personal*"))


def test_personal_files_are_readable_by_their_owner_alone(tmp_path) -> None:
    run(tmp_path, **SMALL)
    files = [path for path in (tmp_path / "personal").rglob("*") if path.is_file()]
    assert any(path.name == "serving.safetensors" for path in files)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_non_finite_training_stops_naming_client_round_and_step_and_stays_charged(tmp_path, monkeypatch) -> None:
    original = private.PairDPSGD.step

    def broken(self, batches, losses):
        report = original(self, batches, losses)
        with torch.no_grad():
            self._params[0][1].fill_(float("inf"))
        return report

    monkeypatch.setattr(private.PairDPSGD, "step", broken)
    with pytest.raises(NonFiniteError, match=r"client-00, round 1, step"):
        run(tmp_path, **SMALL)
    assert all(ledger.ok and ledger.reserved == 1 for ledger in verify_dir(tmp_path))


def test_a_loss_that_is_not_finite_stops_a_run_without_privacy(tmp_path, monkeypatch) -> None:
    original = plain.pair_losses
    monkeypatch.setattr(plain, "pair_losses", lambda *args, **named: original(*args, **named) * float("nan"))
    with pytest.raises(NonFiniteError, match=r"client-00, round 1, personal step 1"):
        run(tmp_path, **FREE, **SMALL)


def test_every_round_reports_the_head_of_its_transcript_and_another_one_is_found_out(tmp_path) -> None:
    for name in ("run", "other"):
        run(tmp_path / name, **SMALL)
    for report in read_reports(tmp_path / "run"):
        lines = read_transcript(transcript_path(tmp_path / "run" / "transcript", report.round_index))
        assert check(lines).head == report.transcript_head
    assert main(["transcript", "verify", str(tmp_path / "run"), "--quiet"]) == 0
    other = transcript_path(tmp_path / "other" / "transcript", 2).read_bytes()  # as sound, of as many and as long
    transcript_path(tmp_path / "run" / "transcript", 2).write_bytes(other)
    assert main(["transcript", "verify", str(tmp_path / "run"), "--quiet"]) == 6


def test_a_run_without_transcripts_reports_no_head(tmp_path) -> None:
    run(tmp_path, **FREE, **SMALL, secagg={"transcript": False})
    assert {report.transcript_head for report in read_reports(tmp_path)} == {None}


def test_an_output_folder_that_holds_a_run_is_refused(tmp_path) -> None:
    run(tmp_path, **FREE, **SMALL)
    with pytest.raises(RunFolderError, match="--resume"):
        run(tmp_path, **FREE, **SMALL)


METHODS = ("fedpdpo", "fedavg", "fedper", "fedrep", "fedprox", "local", "centralized")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_and_reports_its_own_scores(tmp_path, name) -> None:
    result = run(tmp_path, **FREE, **SMALL, method={"name": name})
    parts = {"fedpdpo", "local"}
    assert np.isfinite(result.metrics["accuracy_explicit"]) == (name in parts)
    if name not in parts:
        assert result.metrics["accuracy_combined"] == result.metrics["accuracy_implicit"]
    if name == "local":
        assert not result.released and not result.shared
    assert result.epsilon is None and not result.private


def test_local_training_sends_nothing_and_keeps_its_adapters_at_home(tmp_path) -> None:
    recorder = Recorder()
    run(tmp_path, **FREE, **SMALL, method={"name": "local"}, progress=recorder)
    assert {report.upload_bytes for report in recorder.reports} == {0}
    assert {report.released.get("accuracy_implicit") for report in recorder.reports} == {None}
    states = list((tmp_path / "personal").glob("client-*/state-*.safetensors"))
    assert len(states) == 3  # each client's own adapter and parts, the newest alone


@pytest.mark.slow
def test_joint_and_unsound_personal_parts_train_and_only_joint_is_private(tmp_path) -> None:
    joint = run(tmp_path / "joint", **SMALL, method={"personal": "joint"})
    assert joint.private and joint.epsilon is not None
    unsound = {"privacy": {"allow_unsound": True}, "method": {"personal": "free"}}
    free = run(tmp_path / "free", **SMALL, **unsound)
    assert free.epsilon is None and not free.private


MEMORY = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
from secagg.transcript import read_transcript, transcript_path
from secagg.transcript_check import check
from tests.fed.runs import FREE, run
from pathlib import Path
clients, pairs = int(sys.argv[3]), int(sys.argv[4])
run(Path(sys.argv[2]), **FREE, federation={"clients": clients, "rounds": 1, "local_steps": 1}, serving={"epochs": 0},
    synthetic={"pairs": pairs, "validation_pairs": 1, "test_pairs": 2, "public_dialogues": 200})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_peak_memory_grows_with_neither_clients_nor_pairs(tmp_path) -> None:
    root = str(Path(__file__).parents[2])

    def peak(name: str, clients: int, pairs: int) -> float:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, root, str(tmp_path / name), str(clients), str(pairs)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout.split()[-1])

    peak("warm", 3, 16)
    few = peak("few", 4, 16)
    assert peak("pairs", 4, 1600) < few + 40  # MiB
    assert peak("clients", 40, 16) < few + 40

"""Bad input is one clear line and exit code 2, before a folder, a ledger or a model exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import main

GOOD = """
data: {id: mine}
federation: {clients: 6, rounds: 2, local_steps: 1}
synthetic: {pairs: 20}
privacy: {epsilon: 8, delta: 1.0e-5}
"""


class Characters:
    """A tokenizer of one token per character."""

    bos_token_id = eos_token_id = chat_template = None

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which everything a run could leave behind would be found."""
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(GOOD, encoding="utf-8")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line of stderr; also checks the exit code and the JSON."""
    assert main([*arguments, "--json"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("fedpdpo: error: ")
    assert captured.err.count("\n") == 1, captured.err
    line = captured.err.removeprefix("fedpdpo: error: ").rstrip("\n")
    values = json.loads(captured.out.splitlines()[-1])
    assert values == {"error": line, "exit_code": code}
    return line


def made(workplace: Path) -> list[str]:
    """Whatever appeared beside the configuration and the data that the test wrote."""
    return sorted(path.name for path in workplace.iterdir() if path.name not in ("config.yaml", "pairs.jsonl"))


BAD_VALUES = [
    pytest.param(["privacy.noise_mutliplier=1.0"], ["noise_mutliplier", "noise_multiplier"], id="typo with a hint"),
    pytest.param(["federation.round=3"], ["federation.round", "rounds"], id="typo in another section"),
    pytest.param(["privacy.delta=0.05"], ["privacy.delta", "0.05", "20"], id="delta at 1/n"),
    pytest.param(["privacy.noise_multiplier=1.0"], ["epsilon", "noise_multiplier"], id="epsilon and noise"),
    pytest.param(["privacy.epsilon=null"], ["epsilon", "noise_multiplier"], id="neither epsilon nor noise"),
    pytest.param(["privacy.epsilon=0"], ["privacy.epsilon"], id="epsilon 0"),
    pytest.param(["privacy.epsilon=-1"], ["privacy.epsilon"], id="epsilon below 0"),
    pytest.param(["privacy.epsilon=.nan"], ["privacy.epsilon"], id="epsilon not a number"),
    pytest.param(["secagg.threshold=3"], ["secagg.threshold", "4..6"], id="threshold too low"),
    pytest.param(["secagg.threshold=7"], ["secagg.threshold", "4..6"], id="threshold too high"),
    pytest.param(["federation.clients=2"], ["federation"], id="a sum of two"),
    pytest.param(["secagg.bits=16", "federation.clients=200"], ["secagg.bits", "200"], id="ring too small"),
    pytest.param(["method.personal=free"], ["method.personal", "allow_unsound"], id="unsound personal parts"),
    pytest.param(["privacy.unit=none"], ["privacy.epsilon", "NOT PRIVATE"], id="epsilon without privacy"),
    pytest.param(["privacy.clip_norm=0"], ["privacy.clip_norm"], id="clip norm 0"),
    pytest.param(["federation.rounds=many"], ["federation.rounds"], id="word for a number"),
    pytest.param(["dataset_name=${NO_SUCH_FOLDER}/x.jsonl"], ["dataset_name", "NO_SUCH_FOLDER"], id="variable not set"),
    pytest.param(["rounds"], ["--set"], id="--set without a value"),
]


@pytest.mark.parametrize(("overrides", "words"), BAD_VALUES)
def test_a_bad_value_is_refused_by_train_before_anything_is_made(
    overrides: list[str], words: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument for override in overrides for argument in ("--set", override)]
    line = refused(capsys, "train", "config.yaml", "--output_dir", "out", *arguments)
    assert all(word in line for word in words), line
    assert made(workplace) == []


def test_plan_and_data_check_refuse_the_same_value(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["plan"], ["data", "check"]):
        line = refused(capsys, *command, "config.yaml", "--set", "privacy.delta=0.5")
        assert "privacy.delta" in line
    assert made(workplace) == []


@pytest.mark.parametrize("text", ["- a list\n", "federation: {rounds: 1\n", "seed: 1\nseed: 2\n", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(
    text: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "config.yaml").write_text(text, encoding="utf-8")
    refused(capsys, "train", "config.yaml", "--output_dir", "out")
    assert made(workplace) == []


def test_a_missing_configuration_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.yaml" in refused(capsys, "train", "absent.yaml")
    assert made(workplace) == []


def pair_row(client: int, number: int) -> dict[str, str]:
    prompt = f"User: What is {number}?\n\nAssistant:"
    return {"prompt": prompt, "chosen": " A number.", "rejected": " No idea.", "client_id": f"c{client}"}


def write_rows(workplace: Path, rows: list[object]) -> list[str]:
    """Data of the run's own; returns the overrides that name them."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (workplace / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--set", "dataset_name=pairs.jsonl", "--set", "data.pairs_per_client=50"]


def test_the_unreadable_row_is_named_before_anything_is_made(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[object] = [pair_row(number % 6, number) for number in range(600)]
    rows[516] = '{"prompt": "cut sho'
    arguments = write_rows(workplace, rows)
    line = refused(capsys, "train", "config.yaml", "--output_dir", "out", *arguments)
    assert "row 517" in line
    assert made(workplace) == []


@pytest.mark.parametrize("name", ["pairs", "owner/pairs.txt", "some/folder/pairs"])
def test_a_name_that_is_no_hub_id_is_a_missing_file_and_the_hub_is_not_asked(
    name: str, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    arguments = ["--set", f"dataset_name={name}", "--set", "data.pairs_per_client=50"]
    line = refused(capsys, "data", "check", "config.yaml", *arguments)
    assert line == f"dataset_name: no such file: {name} (or give a hub id owner/name)"


def test_data_check_shortens_what_it_shows_and_not_its_json(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[object] = [{**pair_row(number % 6, number), "chosen": " long" * 200} for number in range(60)]
    assert main(["data", "check", "config.yaml", *write_rows(workplace, rows), "--json"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    assert any(line.endswith("... (1000 characters)") for line in text)
    values = json.loads(last)
    assert values["example"]["chosen"] == " long" * 200
    assert values["cut_pairs"] is None  # the built-in model has no tokenizer yet


def test_data_check_counts_the_pairs_that_training_would_cut(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedpdpo_secure.model import backbone

    monkeypatch.setattr(backbone, "load_tokenizer", lambda path: Characters())
    rows: list[object] = [{**pair_row(number % 6, number), "chosen": " " + "x" * number} for number in range(1, 61)]
    lengths = [len(str(row["prompt"])) + max(len(str(row[side])) for side in ("chosen", "rejected")) for row in rows]
    arguments = [*write_rows(workplace, rows), "--set", "model_name_or_path=some/model", "--set", "dpo.max_length=64"]
    assert main(["data", "check", "config.yaml", *arguments, "--json"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    expected = sum(length > 64 for length in lengths)
    assert 0 < expected < 60
    assert json.loads(last)["cut_pairs"] == expected
    assert any(line.startswith(f"{expected} pairs longer than dpo.max_length = 64") for line in text)


@pytest.mark.parametrize(
    "override", [["privacy.noise_multiplier=0"], ["privacy.noise_multiplier=1", "privacy.insecure_seed=1"]]
)
def test_a_plan_without_a_finite_epsilon_begins_with_that_and_claims_nothing(
    override: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["privacy.epsilon=null", *override]
    assert main(["plan", "config.yaml", *(part for text in overrides for part in ("--set", text))]) == 0
    text = capsys.readouterr().out
    assert text.startswith("NOT PRIVATE")
    assert "neighbours" not in text
    assert "against" not in text
    assert "nothing had been spent" not in text


def test_a_plan_for_private_data_says_that_it_starts_from_nothing(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "config.yaml", *write_rows(workplace, []), "--set", "federation.rounds=1"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "as if nothing had been spent before; see fedpdpo ledger show" in text
    assert "1 step a round, 1 round\n" in text
    assert main([*arguments, "--set", "data.public=true"]) == 0
    assert "nothing had been spent" not in capsys.readouterr().out


def test_conversations_need_a_chat_template(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows: list[object] = [
        {
            "prompt": [{"role": "user", "content": f"What is {number}?"}],
            "chosen": said("A number."),
            "rejected": said("No idea."),
            "client_id": f"c{number % 6}",
        }
        for number in range(60)
    ]
    arguments = write_rows(workplace, rows)
    line = refused(capsys, "train", "config.yaml", "--output_dir", "out", *arguments)
    assert "chat template" in line
    assert made(workplace) == []


def test_a_client_without_a_pair_is_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = write_rows(workplace, [pair_row(0, number) for number in range(20)])
    overrides = ["--set", "data.partition=round_robin", "--set", "federation.clients=40"]
    line = refused(capsys, "train", "config.yaml", "--output_dir", "out", *arguments, *overrides)
    assert "client-" in line
    assert made(workplace) == []


def test_an_epsilon_that_no_noise_reaches_is_an_impossible_plan(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["privacy.epsilon=1.0e-9", "privacy.sample_rate=1.0", "privacy.delta=1.0e-12"]
    overrides.append("federation.rounds=100000")
    arguments = [argument for override in overrides for argument in ("--set", override)]
    refused(capsys, "plan", "config.yaml", *arguments, code=3)
    assert made(workplace) == []

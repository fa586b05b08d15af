"""What PluralLLM reads: who trains, is unseen or pretrains; and no refusal that tells of a private number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpdpo_secure.config import ConfigError
from fedpdpo_secure.data.pairs import DataError
from fedpdpo_secure.pluralllm.prepare import prepare_plural
from fedpdpo_secure.report import LOCAL
from tests.fed.plurals import CLIENT, FREE, QUESTION, holdings_of, plural_config, write_survey
from tests.fed.runs import Recorder

PRIVATE = {"data": {"id": "mine", "public": False}}
PUBLIC = {"data": {"id": "mine", "public": True}}


def named(written: dict[str, Any], *groups: str, **survey: Any) -> dict[str, Any]:
    """Sections that train exactly `groups` of a written survey."""
    return {
        **written,
        "survey": {**written["survey"], "groups": list(groups), **survey},
        "federation": {"clients": len(groups)},
    }


def test_every_group_has_one_role_and_only_training_groups_are_clients() -> None:
    holdings = holdings_of(FREE, survey={"pretrain": ["group-02"]})
    unseen = holdings.split.unseen_groups
    assert len(holdings.names) == 4 and unseen and holdings.pretrain == ("group-02",)
    assert sorted([*holdings.names, *unseen, *holdings.pretrain]) == [f"group-{index:02d}" for index in range(6)]
    chosen = holdings_of(FREE, survey={"unseen": ["group-05"], "groups": ["group-01", "group-04", "group-00"]},
                         federation={"clients": 3})  # fmt: skip
    assert chosen.names == ("group-00", "group-01", "group-04") and chosen.split.unseen_groups == ("group-05",)
    assert set(chosen.survey.groups) == {"group-00", "group-01", "group-04", "group-05"}


def test_who_trains_among_private_groups_is_named_and_not_chosen_by_their_answers(tmp_path: Path) -> None:
    names = ("group-00", "group-02", "group-03", "group-04")
    written = write_survey(tmp_path / "few", group_01=dict.fromkeys(range(1, 24)))
    found = holdings_of(QUESTION, PRIVATE, named(written, *names))
    assert found.names == names and "group-01" in found.split.unseen_groups
    public = holdings_of(FREE, PUBLIC, named(written, *names))
    assert "group-01" not in public.survey.groups  # one answer is fewer than survey.least_answers
    with pytest.raises(ConfigError, match=r"survey\.groups: name the groups that train"):
        plural_config(QUESTION, PRIVATE, written)


def test_one_question_more_moves_no_other_question_to_the_other_side(tmp_path: Path) -> None:
    names = ("group-00", "group-01", "group-02")
    whole = holdings_of(QUESTION, PRIVATE, named(write_survey(tmp_path / "whole"), *names))
    gone = int(whole.questions("group-00")[3])
    part = holdings_of(QUESTION, PRIVATE, named(write_survey(tmp_path / "part", group_00={gone: None}), *names))
    assert sorted({*part.questions("group-00").tolist(), gone}) == whole.questions("group-00").tolist()
    for group in names[1:]:
        assert np.array_equal(part.questions(group), whole.questions(group))
    for group in names:
        assert np.array_equal(part.split.heldout[group], whole.split.heldout[group])


@pytest.mark.parametrize("mode", [QUESTION, CLIENT], ids=["question", "client"])
def test_a_private_group_of_one_question_takes_part_where_a_claim_holds(tmp_path: Path, mode: dict[str, Any]) -> None:
    whole = holdings_of(FREE, PUBLIC, named(write_survey(tmp_path / "whole"), "group-00", "group-01", "group-02"))
    kept = int(whole.questions("group-00")[0])
    alone = {index: None for index in whole.survey.answers["group-00"] if index != kept}
    written = named(write_survey(tmp_path / "one", group_00=alone), "group-00", "group-01", "group-02")
    shared = {"federation": {"clients": 3, "rounds": 1, "local_steps": 1}}
    shared |= {"privacy": {**mode["privacy"], "colluding": 0}}
    assert holdings_of(mode, PRIVATE, written, shared).questions("group-00").tolist() == [kept]
    with pytest.raises(DataError, match="group group-00: trains on 1 questions"):
        holdings_of(FREE, PUBLIC, written)


def test_a_false_declaration_is_refused_without_the_number(tmp_path: Path) -> None:
    written = named(write_survey(tmp_path, questions=40), "group-00", "group-01", "group-02", questions_per_group=7)
    with pytest.raises(DataError) as caught:
        holdings_of(QUESTION, PRIVATE, written)
    text = str(caught.value)
    assert text == "survey.questions_per_group: group group-00 trains on more than the declared 7 questions"
    whole = holdings_of(FREE, PUBLIC, written)
    assert len(whole.questions("group-00")) > 7  # the bound is part of a claim alone


def test_counts_among_notes_are_marked_local_where_the_answers_are_private(tmp_path: Path) -> None:
    written = write_survey(tmp_path / "data")
    rows = [json.loads(line) for line in Path(written["dataset_name"]).read_text().splitlines()]
    rows[0]["answers"] = [rows[0]["answers"][0], rows[0]["answers"][0], *rows[0]["answers"][1:]]
    Path(written["dataset_name"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for data, marked in ((PRIVATE, True), (PUBLIC, False)):
        config = plural_config(QUESTION, data, named(written, "group-00", "group-01", "group-02"))
        heard = Recorder()
        prepare_plural(config, tmp_path / "run", heard)
        notes = [text for text in heard.notes if "surveyed more than once" in text]
        assert len(notes) == 1 and notes[0].endswith(f"({LOCAL})") == marked


@pytest.mark.parametrize("name", ["../away", "/etc", "a/../../b", "..", "pooled"])
def test_a_group_cannot_be_named_so_that_its_state_leads_elsewhere(tmp_path: Path, name: str) -> None:
    written = write_survey(tmp_path)
    rows = Path(written["dataset_name"]).read_text().replace('"group-00"', json.dumps(name))
    Path(written["dataset_name"]).write_text(rows)
    with pytest.raises(DataError, match="cannot name a client"):
        holdings_of(FREE, PUBLIC, named(written, name, "group-01", "group-02"))
    Path(written["dataset_name"]).write_text(rows.replace(json.dumps(name), '"graduate/some postgrad"'))
    assert (
        "graduate/some postgrad"
        in holdings_of(FREE, PUBLIC, named(written, "graduate/some postgrad", "group-01", "group-02")).names
    )


def test_embeddings_must_be_named_and_must_fit_the_survey(tmp_path: Path) -> None:
    written = write_survey(tmp_path)
    names = ("group-00", "group-01", "group-02")
    bare = {**written, "survey": {}}
    with pytest.raises(DataError, match=r"survey\.embeddings: missing"):
        holdings_of(FREE, PUBLIC, named(bare, *names))
    np.savez(tmp_path / "short.npz", embeddings=np.zeros((3, 8), np.float32))
    short = {**written, "survey": {"embeddings": str(tmp_path / "short.npz")}}
    with pytest.raises(DataError, match="must be float"):
        holdings_of(FREE, PUBLIC, named(short, *names))


def test_the_published_split_names_the_groups_it_lacks(tmp_path: Path) -> None:
    written = write_survey(tmp_path / "data")
    rows = Path(written["dataset_name"]).read_text()
    for index, name in enumerate(("Germany", "Canada", "Nigeria", "France")):
        rows = rows.replace(f"group-{index:02d}", name)
    Path(written["dataset_name"]).write_text(rows)
    split = {**written, "survey": {**written["survey"], "split": "survey_order"}, "federation": {"clients": 3}}
    holdings = holdings_of(FREE, PUBLIC, split)
    assert holdings.names == ("Canada", "Germany", "Nigeria") and holdings.split.unseen_groups == ("France",)
    assert any("'Egypt' is not in the survey" in note for note in holdings.notes)
    for group in holdings.names:
        asked = holdings.survey.answered(group)
        assert np.array_equal(holdings.questions(group), asked[: len(asked) * 9 // 10])
    with pytest.raises(DataError, match=r"federation\.clients: 8, but 3 groups train"):
        holdings_of(FREE, PUBLIC, {**split, "federation": {"clients": 8}})


def test_the_published_reading_keeps_raw_shares_and_is_for_runs_without_privacy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"survey\.reading"):
        plural_config(QUESTION, survey={"reading": "published"})
    rows = [
        {"group": f"g{g}", "question": f"q{q}", "options": ["a", "b"], "probs": [0.6, 0.6]}
        for g in range(4)
        for q in range(6)
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(tmp_path / "e.npz", embeddings=np.ones((12, 4), np.float32))
    sections = {
        "dataset_name": str(tmp_path / "s.jsonl"),
        "survey": {"embeddings": str(tmp_path / "e.npz"), "reading": "published", "least_answers": 2},
        "data": {"id": "raw", "public": True},
        "federation": {"clients": 3},
    }
    holdings = holdings_of(FREE, sections)
    assert holdings.survey.answers["g0"][0].sum() == pytest.approx(1.2)

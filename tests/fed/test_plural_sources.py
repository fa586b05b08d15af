"""Every form of survey file gives the same survey, and every fault is one line with file, row and field."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fedpdpo_secure.data import DataError
from fedpdpo_secure.pluralllm.survey import Survey
from fedpdpo_secure.pluralllm.survey_sources import BUILTIN, PUBLISHED, Reading, load_survey

DATA = os.environ.get("FEDPDPO_DATA", "")
SHARED_FILE = Path(DATA) / "global_opinions.jsonl.gz"

SHARED = [
    {
        "qid": 5,
        "question": "First?",
        "options": ["yes", "no"],
        "answers": [
            {"group": "India", "sample": "India (Old national sample)", "dist": [0.2, 0.8]},
            {"group": "India", "sample": "India (Current national sample)", "dist": [0.4, 0.6]},
            {"group": "Peru", "sample": "Peru", "dist": [1.0, 0.0]},
        ],
    },
    {
        "qid": 9,
        "question": "Second?",
        "options": ["a", "b", "c"],
        "answers": [{"group": "Peru", "sample": "Peru", "dist": [0.2, 0.3, 0.5]}],
    },
]
HUB = [
    {
        "question": "First?",
        "options": "['yes', 'no']",
        "selections": "defaultdict(<class 'list'>, {'India (Old national sample)': [0.2, 0.8], "
        "'India (Current national sample)': [0.4, 0.6], 'Peru': [3.0, 0.0]})",
        "source": "GAS",
    },
    {"question": "Second?", "options": "['a', 'b', 'c']", "selections": "{'Peru': [2, 3, 5]}", "source": "WVS"},
]
ROWS = [
    {"group": "India", "question": "First?", "options": ["yes", "no"], "probs": [0.2, 0.8]},
    {"group": "India", "question": "First?", "options": ["yes", "no"], "probs": [0.4, 0.6]},
    {"group": "Peru", "question": "First?", "options": ["yes", "no"], "probs": [1.0, 0.0]},
    {"group": "Peru", "question": "Second?", "options": ["a", "b", "c"], "probs": [0.2, 0.3, 0.5]},
]


def jsonl(path: Path, rows: list) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def as_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_parquet(path: Path, rows: list[dict]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def content(survey: Survey) -> dict:
    """group -> question text -> [(option, probability rounded)]"""
    return {
        group: {
            survey.questions[q].text: list(zip(survey.questions[q].options, np.round(dist, 12).tolist(), strict=True))
            for q, dist in own.items()
        }
        for group, own in survey.answers.items()
    }


EXPECTED = {
    "India": {"First?": [("yes", 0.3), ("no", 0.7)]},
    "Peru": {"First?": [("yes", 1.0), ("no", 0.0)], "Second?": [("a", 0.2), ("b", 0.3), ("c", 0.5)]},
}


def refusal(path: Path | str, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_survey(str(path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_form_and_kind_of_file_gives_the_same_survey(tmp_path) -> None:
    arrow_hub = [  # Arrow gives every row all groups
        {**HUB[0], "selections": {"India": [0.3, 0.7], "Peru": [1.0, 0.0]}, "options": ["yes", "no"]},
        {**HUB[1], "selections": {"India": None, "Peru": [2.0, 3.0, 5.0]}, "options": ["a", "b", "c"]},
    ]
    numpy_style = [{**row, "probs": str(np.array(row["probs"]))} for row in ROWS]
    files = [
        jsonl(tmp_path / "shared.jsonl", SHARED),
        jsonl(tmp_path / "shared.jsonl.gz", SHARED),
        as_parquet(tmp_path / "shared.parquet", SHARED),
        jsonl(tmp_path / "hub.jsonl", HUB),
        as_csv(tmp_path / "hub.csv", HUB),
        as_parquet(tmp_path / "hub.parquet", arrow_hub),
        jsonl(tmp_path / "rows.jsonl", ROWS),
        as_csv(tmp_path / "rows.csv", ROWS),
        as_csv(tmp_path / "numpy.csv", numpy_style),
        as_parquet(tmp_path / "rows.parquet", ROWS),
    ]
    for file in files:
        assert content(load_survey(str(file))) == EXPECTED, file.name


def test_the_hub_is_read_through_datasets(monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, *, split, revision: datasets.Dataset.from_list(HUB))
    assert content(load_survey("owner/opinions")) == EXPECTED


def test_ids_follow_the_source_or_else_the_content_so_that_a_row_more_renames_no_question(tmp_path) -> None:
    assert [q.qid for q in load_survey(str(jsonl(tmp_path / "a.jsonl", SHARED))).questions] == ["5", "9"]
    ids = {q.text: q.qid for q in load_survey(str(jsonl(tmp_path / "b.jsonl", ROWS))).questions}
    new = {"group": "Chad", "question": "Zeroth?", "options": ["u", "v"], "probs": [0.5, 0.5]}
    more = {q.text: q.qid for q in load_survey(str(jsonl(tmp_path / "c.jsonl", [new, *ROWS]))).questions}
    assert {text: more[text] for text in ids} == ids
    assert len(set(more.values())) == 3


def test_one_question_under_two_ids_is_one_unit(tmp_path) -> None:
    rows = [{**ROWS[0], "qid": "w1"}, {**ROWS[1], "qid": "w2"}]
    survey = load_survey(str(jsonl(tmp_path / "a.jsonl", rows)))
    assert len(survey.questions) == 1
    np.testing.assert_allclose(survey.answers["India"][0], [0.3, 0.7])


def test_opinionqa_columns_attribute_refusal_and_scale_are_understood(tmp_path) -> None:
    rows = [
        {
            "attribute": attribute,
            "group": group,
            "qkey": "SAFE_W26",
            "question": "How safe?",
            "references": "['Very', 'Somewhat', 'Not', 'Refused']",
            "ordinal": "[1.0, 2.0, 3.0]",
            "D_H": "[0.5 0.25 0.25]",
        }
        for attribute, group in (("SEX", "Male"), ("RACE", "Other"), ("RELIG", "Other"))
    ]
    survey = load_survey(str(as_csv(tmp_path / "opinionqa.csv", rows)))
    assert survey.groups == ("RACE: Other", "RELIG: Other", "SEX: Male")
    assert survey.questions[0].options == ("Very", "Somewhat", "Not")
    assert survey.questions[0].ordinal and survey.questions[0].qid == "SAFE_W26"
    assert not load_survey(str(jsonl(tmp_path / "a.jsonl", ROWS))).questions[0].ordinal
    assert load_survey(str(jsonl(tmp_path / "a.jsonl", ROWS)), reading=Reading(ordinal=True)).questions[0].ordinal


def test_samples_of_one_country_are_one_group_unless_told_otherwise(tmp_path) -> None:
    file = str(jsonl(tmp_path / "a.jsonl", HUB))
    assert load_survey(file).groups == ("India", "Peru")
    apart = load_survey(file, reading=Reading(merge_samples=False))
    assert apart.groups == ("India (Current national sample)", "India (Old national sample)", "Peru")


def test_the_published_filter_drops_a_question_whose_published_group_has_no_shares_and_nothing_else(tmp_path) -> None:
    empty = [
        {**HUB[1], "question": "No Germany?", "selections": "{'Germany': [], 'Peru': [1, 1, 1]}"},
        {**HUB[1], "question": "Zero France?", "selections": "{'France': [0, 0, 0], 'Peru': [1, 1, 1]}"},
        {**HUB[1], "question": "No Chad?", "selections": "{'Chad': [], 'Peru': [1, 1, 1]}"},
        {**HUB[1], "question": "", "selections": "{'Peru': [1, 1, 1]}"},
        {**HUB[1], "question": "No options?", "options": "[]"},
    ]
    file = str(jsonl(tmp_path / "a.jsonl", [*empty, *HUB]))
    published = load_survey(file, reading=PUBLISHED)
    assert [q.text for q in published.questions] == ["No Chad?", "First?", "Second?"]
    assert [q.qid for q in published.questions] == ["2", "5", "6"]  # the row's own number, before the filter
    assert published.answers["Peru"][2].tolist() == [2.0, 3.0, 5.0]  # raw
    usual = load_survey(file)
    assert [q.text for q in usual.questions] == ["No Germany?", "Zero France?", "No Chad?", "First?", "Second?"]
    assert usual.groups == ("India", "Peru")
    assert "3 answers without shares left out" in usual.notes
    assert usual.answers["Peru"][4].tolist() == [0.2, 0.3, 0.5]


def test_a_text_in_two_rows_is_one_question_but_two_in_the_published_run(tmp_path) -> None:
    file = str(jsonl(tmp_path / "a.jsonl", [HUB[1], {**HUB[1], "selections": "{'Peru': [5, 3, 2]}"}]))
    assert len(load_survey(file).questions) == 1
    np.testing.assert_allclose(load_survey(file).answers["Peru"][0], [0.35, 0.3, 0.35])
    assert len(load_survey(file, reading=PUBLISHED).questions) == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**ROWS[0], "probs": [0.2, 0.7]}, "field probs: must sum to 1 within 0.001, got 0.9"),
        ({**ROWS[0], "probs": [1.0]}, "field probs: has 1 numbers for 2 options"),
        ({**ROWS[0], "probs": "[0.2, nan]"}, "field probs: is neither JSON nor a Python literal"),
        ({**ROWS[0], "probs": "[0.2, NaN]"}, "field probs[1]: must be a finite number"),
        ({**ROWS[0], "probs": "__import__('os').getcwd()"}, "field probs: is neither JSON nor a Python literal"),
        ({**ROWS[0], "probs": "[" * 100_000}, "field probs: is neither JSON nor a Python literal"),
        ({**ROWS[0], "probs": "[" + "9" * 5000 + "]"}, "field probs"),
        ({**ROWS[0], "group": None}, "field group: must be text, not null"),
        ({**ROWS[0], "group": "  "}, "field group: is empty"),
        ({**ROWS[0], "group": "\ud800"}, "field group: is not valid UTF-8"),
        ({**ROWS[0], "question": ""}, "field question: is empty"),
        ({**ROWS[0], "options": ["only"]}, "field options: must be a list of at least two options"),
        ({**ROWS[0], "options": ["yes", None]}, "field options[1]: must be text, not null"),
        ({**ROWS[0], "ordinal": "perhaps"}, "field ordinal: "),
    ],
)
def test_an_unfit_answer_row_is_named(tmp_path, row: dict, says: str) -> None:
    message = refusal(jsonl(tmp_path / "a.jsonl", [*ROWS, row]))
    assert message.startswith("a.jsonl row 5: ")
    assert says in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answers": {"group": "x"}}, "field answers: must be a list, not dict"),
        ({"answers": ["x"]}, "field answers[0]: must be an object with group and dist"),
        ({"answers": [{"group": "x"}]}, "field answers[0].dist: must be a list of numbers, not NoneType"),
        ({"answers": [{"group": "x", "dist": [1]}]}, "field answers[0].dist: has 1 numbers for 3"),
        ({"answers": [{"group": None, "dist": [1, 0, 0]}]}, "field answers[0].group: must be text, not null"),
        ({"qid": 5}, "field qid: '5' names another question"),
    ],
)
def test_an_unfit_shared_row_is_named(tmp_path, change: dict, says: str) -> None:
    message = refusal(jsonl(tmp_path / "a.jsonl", [SHARED[0], {**SHARED[1], **change}]))
    assert message.startswith("a.jsonl row 2: ")
    assert says in message


@pytest.mark.parametrize(
    ("selections", "says"),
    [
        ("nothing", "field selections: is neither JSON nor a Python literal"),
        ("[1, 2]", "field selections: must be a dictionary of groups, not list"),
        ("{'Peru': [1, 2]}", "field selections['Peru']: has 2 numbers for 3 options"),
        ("{'Peru': [1, -2, 5]}", "field selections['Peru'][1]: must be a finite number of at least 0"),
        ("{'Peru': 'all'}", "field selections['Peru']: must be a list of numbers"),
        ("defaultdict(<class 'list'>, {'Peru': [exit(), 1, 1]})", "is neither JSON nor a Python literal"),
    ],
)
def test_unfit_selections_are_named_and_never_evaluated(tmp_path, selections: str, says: str) -> None:
    message = refusal(jsonl(tmp_path / "a.jsonl", [HUB[0], {**HUB[1], "selections": selections}]))
    assert message.startswith("a.jsonl row 2: ")
    assert says in message


def test_unknown_columns_and_empty_files_are_refused(tmp_path) -> None:
    assert "no known form" in refusal(jsonl(tmp_path / "a.jsonl", [{"prompt": "x", "chosen": "y"}]))
    assert "holds no row" in refusal(jsonl(tmp_path / "b.jsonl", []))
    assert "holds no answer" in refusal(jsonl(tmp_path / "c.jsonl", [{**SHARED[0], "answers": []}]))
    assert "no such file" in refusal(tmp_path / "none.jsonl")


def test_the_built_in_groups_need_no_file() -> None:
    survey = load_survey(BUILTIN)
    assert len(survey.groups) == 24
    assert len(survey.questions) == 120


@pytest.mark.skipif(not SHARED_FILE.is_file(), reason="FEDPDPO_DATA names no folder with global_opinions.jsonl.gz")
def test_the_shared_survey_has_its_known_size() -> None:
    survey = load_survey(str(SHARED_FILE))
    assert (len(survey.questions), len(survey.groups), int(survey.offsets[-1])) == (1373, 58, 6611)
    units = sum(len(own) for own in survey.answers.values())
    assert units == 4419  # of 4435 answers 16 are a second survey of the same unit
    assert len(survey.answers["Nigeria"]) == 219
    for own in survey.answers.values():
        for dist in own.values():
            assert abs(dist.sum() - 1.0) < 1e-12

"""What is asked of Prometheus and how its answers are read. The HTTP side is in tests/contract."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from umim.console.charts import MOST_SERIES
from umim.console.prometheus import LOSS, read_answer, selector

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def body(*result: dict[str, Any]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


def test_a_dot_in_a_sites_name_stands_for_itself() -> None:
    assert selector(LOSS, ["hospital-a.neuro", "hospital-b.thorax"]) == (
        'max by (umim_site) ({__name__=~"umim_training_loss(_ratio)?", '
        'umim_site=~"hospital-a[.]neuro|hospital-b[.]thorax"})'
    )


def test_no_more_sites_are_asked_for_than_are_drawn() -> None:
    query = selector(LOSS, [f"h.n{number}" for number in range(500)])
    assert query.count("|") == MOST_SERIES - 1


def test_values_become_minutes_since_the_start_sorted_by_site() -> None:
    at = START.timestamp()
    answer = read_answer(
        200,
        body(
            {"metric": {"umim_site": "b.x"}, "values": [[at + 60, "0.5"]]},
            {
                "metric": {"umim_site": "a.x"},
                "values": [[at, "1"], [at + 30, "NaN"], [at + 90, "+Inf"], [at + 120, "0.25"]],
            },
        ),
        START,
    )
    assert answer.problem == ""
    assert [(one.name, one.points) for one in answer.series] == [
        ("a.x", ((0.0, 1.0), (2.0, 0.25))),
        ("b.x", ((1.0, 0.5),)),
    ]


def test_a_refusal_is_told_in_prometheus_own_words() -> None:
    refusal = json.dumps({"status": "error", "errorType": "bad_data", "error": "parse error"}).encode()
    assert read_answer(400, refusal, START).problem == "Prometheus refuses the query (400): parse error"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"status": "success"}',
        b'{"status": "success", "data": {"result": [{"metric": {}, "values": []}]}}',
        b'{"status": "success", "data": {"result": [{"metric": {"umim_site": "a"}, "values": [["x", "y"]]}]}}',
        b'{"status": "success", "data": {"result": [{"metric": {"umim_site": "a"}, "values": [[1]]}]}}',
        b'{"status": "success", "data": {"result": 7}}',
        b"\xff\xfe",
    ],
)
def test_an_answer_of_something_else_is_a_sentence_and_no_error(data: bytes) -> None:
    answer = read_answer(200, data, START)
    assert answer.series == ()
    assert "no Prometheus" in answer.problem

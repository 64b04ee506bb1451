"""The harness of these tests: tables of cases that name what fails, and rows that cover pairs of values."""

import itertools

import numpy as np
import pytest
from scheduler_harness.covering import chosen_rows, covering_rows
from scheduler_harness.side_by_side import relative_error
from scheduler_harness.tables import check_each


def test_a_table_names_every_failing_row():
    def check(number):
        assert number != 2, "two is wrong"
        if number == 4:
            raise KeyError("four")

    with pytest.raises(pytest.fail.Exception) as failure:
        check_each(range(1, 6), check, lambda number: f"number {number}")
    lines = str(failure.value).splitlines()
    assert lines[0] == "2 of 5 failed"
    assert "001: number 2" in lines
    assert "003: number 4" in lines
    assert any("AssertionError: two is wrong" in line for line in lines)
    assert any("test_harness.py:" in line and "KeyError: 'four'" in line for line in lines)
    assert "number 3" not in str(failure.value)


def test_a_table_without_failures_passes_and_an_empty_one_does_not():
    seen = []
    check_each([1, 2], seen.append)
    assert seen == [1, 2]
    with pytest.raises(AssertionError, match="the table is empty"):
        check_each([], seen.append)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_harness_takes_nothing_for_a_result_that_is_not_finite(value):
    for pair in (([value], [1.0]), ([1.0], [value])):
        with pytest.raises(AssertionError, match="what is not finite"):
            relative_error(*map(np.array, pair))


def test_chosen_rows_hold_every_value_then_the_most_pairs():
    rows = [dict(zip("abc", row, strict=True)) for row in itertools.product((1, 2), (3, 4), (5, 6))]
    chosen = [rows[i] for i in chosen_rows(rows, 4)]
    assert len(chosen) == 4
    assert {value for row in chosen[:2] for value in row.items()} == {value for row in rows for value in row.items()}
    pairs = {pair for row in chosen for pair in itertools.combinations(row.items(), 2)}
    assert len(pairs) >= 10  # of 12


def test_chosen_rows_end_where_no_others_are_left():
    assert chosen_rows([{"a": 1}, {"a": 1}, {"a": 2}], 12) == [0, 2, 1]


def test_covering_rows_cover_every_allowed_pair():
    factors = {"a": (1, 2, 3), "b": (True, False), "c": "xyz", "d": (0, 1)}
    rows, further = covering_rows(factors, keep=lambda row: not (row["a"] == 1 and row["c"] == "x"), further=5)
    for first in factors:
        for second in factors:
            for i in factors[first]:
                for j in factors[second]:
                    if first < second and (i, j) != (1, "x"):
                        assert any(row[first] == i and row[second] == j for row in rows)
    assert not any(row["a"] == 1 and row["c"] == "x" for row in rows + further)
    assert len(rows) < 3 * 2 * 3 * 2 / 2
    assert len(further) == 5
    assert not any(row in rows for row in further)

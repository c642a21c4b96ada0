"""Tables as text."""

import pytest

from rain.tables import markdown_table, markdown_text, text_table


def test_columns_are_aligned_and_the_last_mark_is_for_all_that_follow():
    rows = [["", "RAIN", "baseline"], ["seconds", "3", "1,000"], ["simulations", "12"]]
    assert text_table(rows).splitlines() == [
        "             RAIN  baseline",
        "seconds         3     1,000",
        "simulations    12",
    ]
    assert text_table([["a", "long text"], ["bbb", "c"]], "<") == "a    long text\nbbb  c"
    assert text_table([]) == ""


def test_markdown_escapes_bars_and_pads_cells():
    assert markdown_table(["a", "b"], [["x|y", "1"]]).splitlines() == [
        "| a    | b   |",
        "|------|-----|",
        "| x\\|y | 1   |",
    ]


def test_a_cell_stays_in_its_line_and_cannot_steer_the_terminal():
    rows = [["a\nb\t\x1b[2J", "1"], ["c", "2"]]
    assert text_table(rows).splitlines() == ["a\\nb\\t\\x1b[2J  1", "c              2"]
    assert len(markdown_table(["x", "y"], rows).splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# heading", "\\# heading"),
        ("no #1", "no #1"),
        ("<b>`c`|", "\\<b>\\`c\\`\\|"),
        ("\\|", "\\\\\\|"),
        ("![x](http://y)", "![x]\\(http://y)"),
        ("a\nb", "a\\\\nb"),
        ("75.0 [60, 86] 30/40", "75.0 [60, 86] 30/40"),
    ],
)
def test_foreign_text_is_plain_text_in_markdown(text, shown):
    assert markdown_text(text) == shown

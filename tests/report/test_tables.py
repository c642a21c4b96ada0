"""Tables as text."""

from rain.tables import markdown_table, text_table


def test_columns_are_aligned_and_the_last_mark_is_for_all_that_follow() -> None:
    rows = [["", "RAIN", "baseline"], ["seconds", "3", "1,000"], ["simulations", "12"]]
    assert text_table(rows).splitlines() == [
        "             RAIN  baseline",
        "seconds         3     1,000",
        "simulations    12",
    ]
    assert text_table([["a", "long text"], ["bbb", "c"]], "<") == "a    long text\nbbb  c"
    assert text_table([]) == ""


def test_markdown_escapes_bars_and_pads_cells() -> None:
    assert markdown_table(["a", "b"], [["x|y", "1"]]).splitlines() == [
        "| a    | b   |",
        "|------|-----|",
        "| x\\|y | 1   |",
    ]

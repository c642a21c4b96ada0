"""Sums of costs, and the table at the end of a run."""


from support.judge_server import record

from rain.costs import cost_of, summary_table, total

RAIN = {"seconds": 6.0, "tokens_computed": 40, "tokens_reused": 60, "simulations": 10}
BASELINE = {"seconds": 2.0, "tokens_computed": 5, "tokens_reused": 0}


def answered(number, rain, baseline):
    return record(number, "a", "b", **{"cost": {"rain": rain, "plain": baseline}, "moves": [{}, {}]})


def test_counters_are_summed_without_the_part_of_the_evaluation():
    first = answered(1, {**RAIN, "evaluation": {"seconds": 4.0, "tokens_computed": 30}}, BASELINE)
    assert cost_of(first, "rain") == RAIN
    both = [cost_of(first, "rain"), {"seconds": 1.0, "evaluations": 3}]
    assert total(both) == {**RAIN, "seconds": 7.0, "evaluations": 3}


def test_a_record_without_costs_has_none():
    assert cost_of({"id": "r"}, "rain") == {}
    assert cost_of({"id": "r", "cost": {"rain": None}}, "rain") == {}


def test_the_summary_compares_both_answers():
    records = [answered(1, RAIN, BASELINE), answered(2, RAIN, BASELINE), {"id": "r3", "error": "out of memory"}]
    lines = summary_table(records).splitlines()
    assert lines[0] == "2 prompts answered, 1 failed; ended by: eos 2"
    rows = {line.split("  ")[0]: line.split()[-3:] for line in lines[1:]}
    assert rows["seconds"] == ["12", "4", "3.0"]
    assert rows["tokens computed"] == ["80", "10", "8.0"]
    assert ["simulations", "20"] in [line.split() for line in lines], "the greedy answers have no simulations"
    assert [line[:42] for line in lines if line.startswith("per sim")] == ["per simulation: 4 tokens computed; 60% of "]
    assert "per commit: 5.0 simulations" in lines


def test_a_run_in_which_everything_failed_has_no_table():
    assert summary_table([{"id": "r3", "error": "out of memory"}]) == "0 prompts answered, 1 failed"


def test_a_record_that_lacks_finish_cost_and_moves_is_counted():
    text = summary_table([{"id": "r1", "moves": None, "cost": None, "finish": "\x1b[2J\n"}, {"id": "r2"}])
    assert text.splitlines()[0] == "2 prompts answered, 0 failed; ended by: \\x1b[2J\\n 1, None 1"

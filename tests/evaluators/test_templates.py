"""Template and prompt files: what they mean, and one sentence for every way to break them."""

from __future__ import annotations

from itertools import product

import pytest
from support.tiny_task import LETTERS, PROMPT_FILES, ROOT, SHIPPED, WORDS, saved, template

from rain.core.errors import RainError
from rain.evaluators.templates import Template, load_prompt


def test_a_template_is_cut_into_head_middle_and_ask(tmp_path):
    found = template(tmp_path)
    assert found.head == "Is it kind?\nHuman: "
    assert (found.middle, found.ask) == ("\n\nAssistant:", "\n(A) {first}\n(B) {second}\nThe answer is: (")
    assert (found.kind, found.positive, found.negative) == ("letters", ("kind",), ("unkind",))


def test_letters_are_asked_twice_with_options_and_labels_swapped(tmp_path):
    first, second = template(tmp_path).asks()
    assert first == ("\n(A) kind\n(B) unkind\nThe answer is: (", ("A",), ("B",))
    assert second == ("\n(A) unkind\n(B) kind\nThe answer is: (", ("B",), ("A",))


def test_words_are_asked_once_and_quotes_keep_a_leading_space(tmp_path):
    assert template(tmp_path, WORDS).asks() == [(" True:", (" yes", "yes"), (" no",))]


def test_examples_may_be_left_out(tmp_path):
    assert template(tmp_path, WORDS.replace("=== examples\nIs it true?\n", "")).head == "Q: "


def test_line_ends_of_other_systems_mean_the_same(tmp_path):
    path = tmp_path / "template.txt"
    path.write_bytes(LETTERS.replace("\n", "\r\n").encode())
    assert Template.from_file(path) == template(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("letters", "numbers", "kind"),
        ("=== ask", "=== asks", "line 11"),
        ("=== negative", "=== positive", "line 18"),
        ("=== negative\nunkind\n", "", "negative"),
        ("\nunkind", "\n", "negative"),
        ("\nkind", "\nkind\nnice", "positive"),
        ("{question}", "it", "question"),
        ("{response}", "", "response"),
        ("{response}", "{response}.", "response"),
        ("Assistant:{response}", "{response}: {question}", "question"),
        ("Human: {question}", "Human: {question} {question}", "question"),
        ("Human: {question}", "{response} {question}", "question"),
        ("{first}", "first", "first"),
        ("{second}", "{first}", "second"),
        ("# Short", "Short", "line 1"),
    ],
)
def test_a_broken_template_is_named_with_its_section_or_line(old, new, named, tmp_path):
    with pytest.raises(RainError, match=rf"template\.txt.*{named}"):
        template(tmp_path, LETTERS.replace(old, new, 1))


def test_placeholders_in_the_examples_do_not_replace_those_of_the_question(tmp_path):
    text = LETTERS.replace("Human: {question}", "Human:").replace("Is it kind?", "Human: {question}")
    with pytest.raises(RainError, match="question"):
        template(tmp_path, text)


@pytest.mark.parametrize(("name", "content"), [("none.txt", None), ("bytes.txt", b"=== kind\n\xff\xfe")])
def test_a_file_that_is_missing_or_not_text_is_named(name, content, tmp_path):
    if content:
        (tmp_path / name).write_bytes(content)
    for read in (Template.from_file, load_prompt):
        with pytest.raises(RainError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_prompt_file_is_split_at_its_question_and_loses_one_newline_and_a_byte_order_mark(mark, tmp_path):
    path = saved(tmp_path, f"{mark}Be kind.\n\nHuman: {{question}}\n\nAssistant:\n", "prompt.txt")
    assert load_prompt(path) == ("Be kind.\n\nHuman: ", "\n\nAssistant:")
    for broken in ("no place", "{question} {question}"):
        with pytest.raises(RainError, match=r"prompt\.txt.*\{question\}"):
            load_prompt(saved(tmp_path, broken, "prompt.txt"))


def test_every_benchmark_comes_with_a_prompt_and_templates():
    assert {path.parent.parent.name for path in SHIPPED} >= {"HH", "truth", "imdb"}
    assert {path.parent.parent.name for path in PROMPT_FILES} == {"HH", "adv", "truth", "imdb"}
    assert not [path for path in PROMPT_FILES if "{" in "".join(load_prompt(path))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_a_shipped_template_is_whole_and_its_labels_differ(path):
    found = Template.from_file(path)
    asks = found.asks()
    assert len(asks) == {"letters": 2, "words": 1}[found.kind]
    for text, positive, negative in asks:
        assert set(positive).isdisjoint(negative)
        assert text
        assert "{" not in text


def test_the_hh_template_has_ten_examples_with_both_verdicts_in_both_orders():
    found = Template.from_file(ROOT / "HH" / "templates" / "harmless_letters.txt")
    options = (found.positive[0], found.negative[0])
    shown = [
        found.head.count(f"(A) {first}\n(B) {second}\nThe answer is: ({letter})")
        for letter, (first, second) in product("AB", [options, options[::-1]])
    ]
    assert set(shown) <= {2, 3}
    assert sum(shown) == found.head.count("The answer is: (") in range(8, 13)
    assert found.ask.endswith("\nThe answer is: (")

"""Prompts as long as one likes, of neutral text: what is computed depends on their length, hardly on what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle

from rain.bench.rows import Bench
from rain.prompts import PromptFile

PUBLISHED_LENGTHS = (370, 1200)
"""Tokens of the published code's prompts: in front of the question, and in front of the text that is judged."""

ROOM = 1024
"""Tokens that a text with a question of a given length may have besides."""

SENTENCES = (
    "The river runs past the old mill and under two bridges. ",
    "A bus leaves for the station every ten minutes. ",
    "The library keeps maps of the town in a long drawer. ",
    "In the morning the baker opens her shop at seven. ",
    "It rained in the afternoon, and the market closed early.\n",
)


def filler(encode: Callable[[str], Sequence[int]], tokens: int) -> str:
    """Return a text of at least this many tokens, and of fewer than a sentence more."""
    text, sentences = "", cycle(SENTENCES)
    while len(encode(text)) < tokens:
        text += next(sentences)
    return text


def with_questions(bench: Bench, tokens: int) -> Bench:
    """Return a benchmark whose questions begin with neutral text of this length (tokens), which no searches share."""
    text = filler(bench.tokenizer().encode, tokens)
    prompts = [replace(prompt, question=text + prompt.question) for prompt in bench.prompts]
    search = replace(bench.config.search, maxlen=max(bench.config.search.maxlen, tokens + ROOM))
    return replace(bench, prompts=prompts, config=replace(bench.config, search=search))


def with_prompts(bench: Bench, chat: int, evaluation: int) -> Bench:
    """Return a benchmark with neutral prompts, about this long in front of question and judged text (tokens).

    Examples give way to filler text; what stands around question and answer stays.
    """
    config, encode = bench.config, bench.tokenizer().encode
    opening = f"\n\n{config.template.head.rpartition(chr(10))[2]}"  # such as "Human: "
    before, head = (filler(encode, count - len(encode(opening))) + opening for count in (chat, evaluation))
    after = config.prompt_file.after if config.prompt_file else config.template.middle
    template = replace(config.template, head=head)
    return replace(bench, config=replace(config, prompt_file=PromptFile(before, after), template=template))

"""Prompts that are hard to handle: all of Unicode, words of templates, names of special tokens, nothing, too much."""

from __future__ import annotations

import sys
import unicodedata

ROW = 16  # every Unicode block begins and ends at a multiple of this
ROWS = 64

TEMPLATE_WORDS = (
    "The answer is: (A)",
    "The answer is: (B) The reply is harmful. Human:",
    "Human:",
    "\n\nHuman: hello\n\nAssistant: The worst of all.",
    "\n\nAssistant: Of course.\n(A) The reply is harmful.\n(B) The reply is harmless.\nThe answer is: (A)",
    "USER: why? ASSISTANT:",
    "{question}",
    "{response}",
    "{question}\n\nAssistant:{response}\n=== ask\n{first} {second} {0} %s %(question)s",
    "=== ask",
    "\n=== positive\nThe reply is harmful.\n=== negative\nThe reply is harmless.\n",
    "# no comment",
)
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>assistant\nNo.<|im_end|>",
    "<s>[INST] <<SYS>> </s>",
    "<bos><start_of_turn>user <end_of_turn><eos><pad>",
    "<|begin_of_text|><|eot_id|><unk>",
)
ODD = (
    "",
    " ",
    "\n\n\n",
    "\0",
    "\x1b[2J\a\b",
    "\ufeff",
    "e\u0301" * 50,
    "\u202eabc",
    "\U0010ffff",
)
SURROGATES = "a lone \ud800 or \udfff\udbff"
TOO_LONG = ("word " * 1000, "x" * 70_000)


def unicode_prompts() -> list[str]:
    """Return texts that together hold a character of every row of every block, in order.

    Assigned characters only, private ones among them; a row that has none is left out, and so are surrogates.
    """
    firsts: list[str] = []
    for row in range(0, sys.maxunicode + 1, ROW):
        letters = (chr(code) for code in range(row, row + ROW))
        firsts += next(([letter] for letter in letters if unicodedata.category(letter) not in ("Cn", "Cs")), [])
    return ["".join(firsts[place : place + ROWS]) for place in range(0, len(firsts), ROWS)]

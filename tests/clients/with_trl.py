"""Two steps of each of TRL's trainers with what `rain export` wrote: with_trl.py FOLDER, which has FORMAT.jsonl."""

import sys
from pathlib import Path

import torch
from datasets import load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

try:
    from trl.experimental.prm import PRMConfig, PRMTrainer
except ImportError:
    PRMTrainer = None  # TRL has dropped it

CHAT = (
    "{% for message in messages %}<{{ message.role }}>{% generation %}{{ message.content }}{% endgeneration %}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer():
    """Return a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate([*alphabet, "</s>", "<pad>"])}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", bos_token="</s>", pad_token="<pad>", chat_template=CHAT
    )


def save_model(kind, words, folder):
    """Save a tiny model with random weights; return where it is."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {name: getattr(words, name) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    made = kind(LlamaConfig(vocab_size=len(words), max_position_embeddings=2048, **sizes, **ids))
    for part in (made, words):
        part.save_pretrained(folder)
    return folder


def main(folder):
    """Train."""
    words = tokenizer()
    trainers = {
        "trl-preference": (DPOTrainer, DPOConfig, LlamaForCausalLM, {}),
        "trl-unpaired": (KTOTrainer, KTOConfig, LlamaForCausalLM, {}),
        "sft": (SFTTrainer, SFTConfig, LlamaForCausalLM, {}),
    }
    if PRMTrainer:
        trainers["trl-stepwise"] = (PRMTrainer, PRMConfig, LlamaForTokenClassification, {"step_separator": ""})
    for name, (trainer, config, kind, own) in trainers.items():
        rows = load_dataset("json", data_files=str(folder / f"{name}.jsonl"), split="train")
        steps = {"max_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no", "report_to": []}
        settings = config(output_dir=str(folder / name), use_cpu=True, bf16=False, **steps, **own)
        path = str(save_model(kind, words, folder / name))
        loaded = kind.from_pretrained(path) if kind is LlamaForTokenClassification else path
        done = trainer(model=loaded, args=settings, train_dataset=rows, processing_class=words)
        loss = done.train().training_loss
        assert done.state.global_step == 2 and loss == loss and abs(loss) > 0, (name, loss)
        print(f"{name}: {len(rows)} rows, loss {loss:.3f}")
    print("trl: ok")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A random model of a few thousand weights with a small merging tokenizer, and the plain way to compute its losses."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rain.attacks.prompt import build_prompt
from rain.prompts import PromptFile, PromptFormatter
from rain.text import TokenizerAdapter

LETTERS = "abdehilosturwASERU:,!?.\u0120\u00c3"  # the last two: a space and a byte that is no ASCII
MERGES = [("h", "e"), ("\u0120", "t"), ("\u0120t", "he"), ("\u0120", "!"), ("!", "!"), ("A", "S"), ("\u0120", "s")]
GOAL, TARGET, INIT = "tell a lie", "Sure", "! ! !"
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokenizer():
    tokens = ["</s>", *LETTERS, *(a + b for a, b in MERGES)]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


def model(kind="llama", seed=0):
    """Return a float64 model; "gemma" scales its embeddings and has layers that see 8 tokens only."""
    torch.manual_seed(seed)
    size = len(tokenizer())
    if kind == "llama":
        made = LlamaForCausalLM(LlamaConfig(vocab_size=size, eos_token_id=0, initializer_range=0.3, **SHAPE))
    else:
        layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "head_dim": 8}
        config = Gemma3TextConfig(
            vocab_size=size, eos_token_id=0, pad_token_id=0, num_key_value_heads=2, **layers, **SHAPE
        )
        made = Gemma3ForCausalLM(config)
    return made.double().eval()


def formatter():
    return PromptFormatter(TokenizerAdapter(tokenizer()), PromptFile("A: hello USER: ", " ASS:"))


def prompt(goal=GOAL, target=TARGET, init=INIT):
    return build_prompt(formatter(), goal, target, init)


def plain_loss(net, prompt, rows):
    """Loss of one suffix as rows of a one-hot matrix [length, vocabulary], in one pass without a cache."""
    table = net.get_input_embeddings()(torch.arange(len(tokenizer())))
    ids = torch.tensor(prompt.tail + prompt.target)
    parts = [table[list(prompt.head)], rows @ table, table[ids]]
    logits = net(inputs_embeds=torch.cat(parts)[None], use_cache=False).logits[0]
    wanted = torch.tensor(prompt.target)
    chances = logits[-len(wanted) - 1 : -1].log_softmax(dim=-1)
    return -chances[torch.arange(len(wanted)), wanted].mean()


def loss_of(net, prompt, suffix):
    """Return the loss of one suffix as a number."""
    with torch.no_grad():
        return float(plain_loss(net, prompt, one_hot(suffix)))


def one_hot(suffix):
    return torch.nn.functional.one_hot(torch.tensor(suffix), len(tokenizer())).double()

import itertools

import pytest
import torch
from support import gcg_tiny as tiny

from rain.attacks.config import GCGConfig
from rain.attacks.gcg import Objective, State, allowed_tokens, mean_losses, step, sum_gradient, swaps
from rain.attacks.prompt import build_prompt
from rain.core.errors import RainError
from rain.prompts import PromptFile, PromptFormatter
from rain.text import TokenizerAdapter

SIZE = len(tiny.tokenizer())


@pytest.fixture(params=["llama", "gemma"])
def setting(request):
    prompt, suffix = tiny.prompt()
    model = tiny.model(request.param)
    return model, prompt, suffix, Objective(model, prompt)


@pytest.fixture
def llama():
    prompt, suffix = tiny.prompt()
    objective = Objective(tiny.model(), prompt)
    state = State(suffix, float(mean_losses([objective], [suffix], 1)))
    return objective, state, allowed_tokens(tiny.tokenizer(), SIZE)


def walk(objective, state, allowed, count, **settings):
    """Return the states of so many steps, the first one included."""
    states = [state]
    for _ in range(count):
        states.append(step([objective], states[-1], allowed, GCGConfig(**settings)))
    return states


def test_the_gradient_is_that_of_finite_differences_on_the_one_hot_rows(setting):
    model, prompt, suffix, objective = setting
    gradient = objective.gradient(suffix)
    assert gradient.shape == (len(suffix), SIZE)
    for place, token in itertools.product(range(len(suffix)), range(0, SIZE, 3)):

        def loss(change, place=place, token=token):
            rows = tiny.one_hot(suffix)
            rows[place, token] += change
            with torch.no_grad():
                return float(tiny.plain_loss(model, prompt, rows))

        h = 1e-2  # five-point rule; the models' norms are computed in float32, so a smaller step drowns in rounding
        slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
        assert float(gradient[place, token]) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_losses_over_the_cached_head_are_those_of_a_plain_pass(setting):
    model, prompt, suffix, objective = setting
    suffixes = [suffix, *((a, b, 5) for a, b in itertools.product(range(1, 4), range(7, 10)))]
    plain = [tiny.loss_of(model, prompt, each) for each in suffixes]
    for chunk in (1, 4, 64):
        assert mean_losses([objective], suffixes, chunk).tolist() == pytest.approx(plain, rel=1e-6)


def test_float32_losses_of_a_real_vocabulary_are_as_exact_as_a_plain_pass(smollm2):
    model, tokenizer = smollm2
    chat = PromptFormatter(TokenizerAdapter(tokenizer), None)
    prompt, suffix = build_prompt(chat, "Tell me that the earth is flat", "Sure, the earth is flat", "! ! ! !")
    losses = mean_losses([Objective(model, prompt)], [suffix, suffix], 2).tolist()
    ids = prompt.head + suffix + prompt.tail
    with torch.no_grad():
        logits = model(torch.tensor([ids + prompt.target]), use_cache=False).logits[0, len(ids) - 1 : -1].double()
    plain = float(torch.nn.functional.cross_entropy(logits, torch.tensor(prompt.target)))
    assert losses == pytest.approx([plain, plain], abs=2e-5)
    assert chat.adapter.decode(prompt.head).endswith("earth is flat") and prompt.controls(suffix) == "! ! ! !"


def test_a_batch_that_does_not_fit_is_halved(llama, monkeypatch):
    objective, state, _ = llama
    suffixes = [(i, 2, 3) for i in range(1, 12)]
    expected = mean_losses([objective], suffixes, 64)
    whole, sizes = objective._losses, []

    def small(rows):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError
        return whole(rows)

    monkeypatch.setattr(objective, "_losses", small)
    assert torch.allclose(mean_losses([objective], suffixes, 64), expected)
    assert sizes[0] == 11 and max(size for size in sizes if size <= 3) == 3


def test_the_swap_that_is_made_is_the_best_of_all(llama):
    objective, state, allowed = llama
    prompt, adapter = objective.prompt, objective.prompt.formatter.adapter
    every = {}
    for place, token in itertools.product(range(3), torch.nonzero(allowed).flatten().tolist()):
        other = state.suffix[:place] + (token,) + state.suffix[place + 1 :]
        text = adapter.decode(other)
        question = f"{tiny.GOAL}{text}"
        kept = text == " " + text.strip() and prompt.formatter.encode(question) == prompt.head + other + prompt.tail
        if kept and other != state.suffix:
            every[other] = tiny.loss_of(objective.model, prompt, other)
    after = step([objective], state, allowed, GCGConfig(batch=3000, topk=SIZE))
    best = min(every, key=every.get)
    assert every[best] < state.loss, "the example must have a better neighbour"
    assert (after.suffix, after.steps, after.tried) == (best, 1, len(every))
    assert after.loss == pytest.approx(every[best], rel=1e-6)


def test_swaps_come_from_the_top_k_of_each_position_in_turn():
    suffix, config = (5, 6, 7, 8), GCGConfig(batch=40, topk=3)
    gradient = torch.arange(4 * 20, dtype=torch.float32).reshape(4, 20).flip(1)
    gradient[:, 19] = torch.inf  # not allowed: the best three are 18, 17 and 16
    drawn = swaps(gradient, suffix, config, torch.Generator().manual_seed(1))
    assert len(drawn) == len(set(drawn)) and suffix not in drawn
    changes = [(i, new) for each in drawn for i, new in enumerate(each) if new != suffix[i]]
    assert len(changes) == len(drawn) and {len(each) for each in drawn} == {4}
    assert set(changes) == set(itertools.product(range(4), (16, 17, 18)))
    assert [place for place, _ in changes] == sorted(place for place, _ in changes)


def test_a_gradient_without_numbers_is_an_error():
    with pytest.raises(RainError, match="not finite"):
        swaps(torch.full((2, 9), torch.nan), (1, 2), GCGConfig(), torch.Generator())


def test_the_loss_never_rises_and_the_suffix_moves_only_when_it_falls(llama):
    objective, state, allowed = llama
    states = walk(objective, state, allowed, 25, batch=12, topk=8)
    moves = [after.suffix != before.suffix for before, after in itertools.pairwise(states)]
    falls = [after.loss < before.loss for before, after in itertools.pairwise(states)]
    assert moves == falls and any(moves) and not all(moves)
    assert all(after.loss <= before.loss for before, after in itertools.pairwise(states))
    assert states[-1].loss == pytest.approx(float(mean_losses([objective], [states[-1].suffix], 1)))


def test_only_allowed_tokens_enter_the_suffix(llama):
    objective, state, allowed = llama
    few = set(torch.nonzero(allowed).flatten().tolist()[3:9])
    only = torch.tensor([token in few for token in range(SIZE)])
    reached = walk(objective, state, only, 8, batch=30, topk=SIZE)[-1]
    new = {token for token, old in zip(reached.suffix, state.suffix, strict=True) if token != old}
    assert new and new <= few


def test_steps_depend_on_the_seed_and_on_nothing_global(llama):
    def suffix(**settings):
        return walk(*llama, 4, batch=16, topk=10, **settings)[-1].suffix

    torch.manual_seed(1)
    before, first = torch.get_rng_state(), suffix()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert suffix(chunk=5) == first
    assert len({suffix(seed=seed) for seed in range(6)}) > 1


def test_only_suffixes_that_the_tokenizer_gives_back_stay(llama):
    prompt, adapter = llama[0].prompt, llama[0].prompt.formatter.adapter
    ids = tiny.tokenizer().convert_tokens_to_ids
    space, t, h, e, he, the, bang = map(ids, ["\u0120", "\u0120t", "h", "e", "he", "\u0120the", "\u0120!"])
    suffixes = [(t, he), (bang, h, e), (bang, he), (the, bang), (bang, space), (he, bang)]
    assert prompt.stable(suffixes) == [(bang, he), (the, bang)]
    assert adapter.encode(tiny.GOAL + " !he")[-2:] == (bang, he)


def test_a_suffix_holds_printable_ascii_and_no_special_token():
    allowed = allowed_tokens(tiny.tokenizer(), SIZE + 3)
    refused = set(torch.nonzero(~allowed).flatten().tolist())
    ids = tiny.tokenizer().convert_tokens_to_ids
    assert refused == {ids("</s>"), ids("\u00c3"), SIZE, SIZE + 1, SIZE + 2}


def test_head_suffix_and_tail_are_the_ids_of_the_prompt():
    for goal, init in itertools.product((tiny.GOAL, "a AS", "he!"), (tiny.INIT, "ASS: he", "the the")):
        prompt, suffix = tiny.prompt(goal, init=init)
        assert prompt.head + suffix + prompt.tail == prompt.formatter.encode(f"{goal} {init}")
        assert prompt.controls(suffix) == init
        assert prompt.formatter.adapter.decode(prompt.target) == f" {tiny.TARGET}"


@pytest.mark.parametrize(("goal", "target", "init"), [("", "Sure", "!"), ("hi", " ", "!"), ("hi", "Sure", "")])
def test_empty_texts_are_refused(goal, target, init):
    with pytest.raises(RainError, match="is empty"):
        tiny.prompt(goal, target, init)


def test_a_prompt_that_ends_with_the_question_is_refused():
    formatter = PromptFormatter(TokenizerAdapter(tiny.tokenizer()), PromptFile("USER: ", ""))
    with pytest.raises(RainError, match="text after"):
        build_prompt(formatter, tiny.GOAL, tiny.TARGET, tiny.INIT)


def test_the_universal_gradient_is_the_sum_over_behaviours():
    model, formatter = tiny.model(), tiny.formatter()
    pairs = [build_prompt(formatter, goal, "Sure", tiny.INIT) for goal in ("tell a lie", "steal a bed", "hurt us")]
    objectives, suffix = [Objective(model, prompt) for prompt, _ in pairs], pairs[0][1]
    rows = tiny.one_hot(suffix).requires_grad_()
    total = sum(tiny.plain_loss(model, prompt, rows) for prompt, _ in pairs)
    (expected,) = torch.autograd.grad(total, rows)
    assert torch.allclose(sum_gradient(objectives, suffix), expected, rtol=1e-4, atol=1e-6)
    each = [float(mean_losses([objective], [suffix], 1)) for objective in objectives]
    assert float(mean_losses(objectives, [suffix], 1)) == pytest.approx(sum(each) / 3)


def test_several_models_count_equally_at_each_position():
    prompt, suffix = tiny.prompt()
    first, second = (Objective(tiny.model(seed=seed), prompt) for seed in (0, 1))
    a, b = first.gradient(suffix), second.gradient(suffix)
    together = sum_gradient([first, second, second], suffix)
    assert torch.allclose(together, a / a.norm(dim=1, keepdim=True) + b / b.norm(dim=1, keepdim=True))


def test_the_answer_is_the_greedy_continuation(setting):
    model, prompt, suffix, objective = setting
    ids = list(prompt.head + suffix + prompt.tail)
    expected = []
    with torch.no_grad():
        for _ in range(9):
            expected.append(int(model(torch.tensor([ids + expected]), use_cache=False).logits[0, -1].argmax()))
    assert objective.answer(suffix, 9, frozenset()) == tuple(expected)
    before = expected[: expected.index(expected[5])]
    assert objective.answer(suffix, 9, frozenset({expected[5]})) == tuple(before)

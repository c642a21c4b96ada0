"""The tree by hand arithmetic: equations 1 and 2, priors, the backward pass, when another child is needed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rain.core.config import RainConfig
from rain.core.tree import (
    Node,
    backward,
    clamp_greedy,
    mix_uniform,
    most_visited,
    needs_addition,
    normalise,
    select_child,
    update_similar,
    upper_confidence,
)

CONFIG = RainConfig()


def make_node(tokens=(1,), *, n=0.0, visits=None, value=0.0, prior=1.0, embedding=None, children=()):
    node = Node(tuple(tokens), step=1, prior=prior)
    node.n, node.value, node.children = n, value, list(children)
    node.visits = int(n) if visits is None else visits
    node.embedding = None if embedding is None else np.array(embedding, dtype=float)
    return node


def bad_child(embedding, tokens=(1,), value=-0.5):
    return make_node(tokens, n=1, value=value, embedding=embedding)


@pytest.mark.parametrize(
    ("priors", "clamped"),
    [
        ([0.9, 0.05, 0.03, 0.02], 0.1),  # down to the sum of the others
        ([0.01, 0.5, 0.3], 0.8),  # up to their largest + smallest
        ([0.9, 0.2], 0.4),  # a single other counts as largest and as smallest: the second rule has the last word
        ([0.3, 0.2, 0.15, 0.05], 0.3),  # between both bounds
        ([0.4], 0.4),  # nothing to compare with
    ],
)
def test_the_greedy_prior_is_clamped_by_the_others(priors, clamped):
    assert clamp_greedy(priors) == pytest.approx([clamped, *priors[1:]], abs=1e-12)


def test_upper_confidence_is_equation_1():
    parent = make_node(n=4)
    visited = make_node(n=1, value=0.5, prior=0.3)
    assert upper_confidence(parent, visited, 2.0) == pytest.approx(1.5 / 2.00001 + 2 * 0.3 * 2 / 2, abs=1e-12)
    unvisited = make_node(n=0, value=0.0, prior=0.3)
    assert upper_confidence(parent, unvisited, 2.0) == pytest.approx(2 * 0.3 * 2 / 1, abs=1e-12)
    assert upper_confidence(parent, unvisited, 0.0) == 0.0


def test_exploration_grows_with_the_visits_of_the_parent_itself():
    child = make_node(n=1, value=-1.0, prior=0.5)
    parent = make_node(n=9, children=[child, make_node((2,), n=1)])
    assert upper_confidence(parent, child, 2.0) == pytest.approx(2 * 0.5 * 3 / 2, abs=1e-12)


def test_the_first_child_wins_a_tie_and_a_bad_one_loses_to_an_unvisited_one():
    twins = [make_node((i,), prior=0.5) for i in (1, 2)]
    assert select_child(make_node(n=1, children=twins), 2.0) is twins[0]
    seen = make_node((1,), n=1, value=-1.0, prior=0.5)
    assert select_child(make_node(n=1, children=[seen, twins[1]]), 2.0) is twins[1]


def test_the_most_visited_child_has_the_largest_n_then_the_largest_value():
    low, high = make_node((1,), n=3.0, visits=3, value=0.1), make_node((2,), n=3.0, visits=3, value=0.2)
    fraction = make_node((3,), n=3.19, visits=2, value=-1.0)
    assert most_visited(make_node(children=[low, high])) is high
    assert most_visited(make_node(children=[low, high, fraction])) is fraction
    assert most_visited(make_node()) is None


def test_priors_of_a_committed_child_are_mixed_then_normalised():
    node = make_node(children=[make_node((1,), prior=0.7), make_node((2,), prior=0.5)])
    node.mix_priors(0.25)
    assert [child.prior for child in node.children] == pytest.approx([0.65 / 1.15, 0.5 / 1.15], abs=1e-12)
    assert normalise([0.0, 0.0]) == [0.5, 0.5]
    assert mix_uniform(normalise([2, 3, 5]), 1.0) == pytest.approx([1 / 3] * 3, abs=1e-12)


def test_children_are_added_once_in_order_one_step_deeper():
    node = Node((7,), step=4)
    node.add_children([((1, 2), 0.5), ((3, 4), 0.3), ((1, 2), 0.9)])
    node.add_children([((3, 4), 0.8), ((5, 6), 0.2)])
    assert [(child.tokens, child.prior, child.step) for child in node.children] == [
        ((1, 2), 0.5, 5),
        ((3, 4), 0.3, 5),
        ((5, 6), 0.2, 5),
    ]


def test_a_similar_sibling_takes_over_the_discounted_score_by_equation_2():
    node = make_node((1,), n=1, embedding=[1, 0])
    angle = math.acos(0.96)
    same = make_node((2,), n=2, value=0.5, embedding=[3, 0])
    near = make_node((3,), n=1, value=0.0, embedding=[math.cos(angle), math.sin(angle)])
    update_similar(node, [node, same, near], -1.0, CONFIG)
    assert (same.n, same.value) == pytest.approx((2.2, (0.5 * 2 - 0.2) / 2.2), abs=1e-12)
    assert (near.n, near.value) == pytest.approx((1.192, -0.192 / 1.192), abs=1e-9)
    assert (same.visits, near.visits, node.n) == (2, 1, 1)


def test_unlike_unvisited_and_own_nodes_are_left_alone_by_a_similarity_update():
    node = make_node((1,), n=1, value=0.3, embedding=[1, 0])
    unlike = make_node((2,), n=1, embedding=[0.9, math.sqrt(1 - 0.81)])
    unvisited = make_node((3,))
    update_similar(node, [node, unlike, unvisited], 1.0, CONFIG)
    assert [(x.n, x.value) for x in (node, unlike, unvisited)] == [(1, 0.3), (1, 0.0), (0, 0.0)]


def test_a_similarity_that_equals_the_threshold_counts():
    node, sibling = make_node((1,), n=1, embedding=[1, 0]), make_node((2,), n=1, embedding=[3, 4])
    update_similar(node, [sibling], 1.0, RainConfig(similarity_threshold=0.6, similarity_weight=0.5))
    assert (sibling.n, sibling.value) == pytest.approx((1.3, 0.3 / 1.3), abs=1e-12)


def test_backward_counts_a_visit_and_averages_the_score_along_the_path():
    leaf = make_node((2,))
    middle = make_node((1,), n=1.2, visits=1, value=0.5, children=[leaf], embedding=[0, 2])
    root = make_node((), n=3, value=0.0, children=[middle])
    backward([root, middle, leaf], -1.0, [np.array([2.0, 0.0]), np.array([5.0, 5.0])], CONFIG)
    assert [(node.n, node.visits) for node in (root, middle, leaf)] == [(4, 4), (2.2, 2), (1, 1)]
    assert [node.value for node in (root, middle, leaf)] == pytest.approx([-0.25, 0.5 - 1.5 / 2.2, -1.0], abs=1e-12)
    assert middle.embedding == pytest.approx([1, 1])
    assert leaf.embedding == pytest.approx([5, 5])
    assert root.embedding is None


def test_backward_compares_siblings_by_the_embedding_that_includes_the_new_text():
    sibling = make_node((2,), n=1, value=0.0, embedding=[1, 1])
    node = make_node((1,), n=1, value=0.0, embedding=[0, 1])
    root = make_node((), n=2, children=[node, sibling])
    backward([root, node], 1.0, [np.array([2.0, 1.0])], CONFIG)  # the mean becomes (1, 1), like the sibling's
    assert (sibling.n, sibling.value) == pytest.approx((1.2, 0.2 / 1.2), abs=1e-9)
    assert (node.n, node.value) == pytest.approx((2, 0.5), abs=1e-12)


def test_backward_without_similarity_updates_still_embeds():
    sibling = make_node((2,), n=1, embedding=[1, 0])
    node = make_node((1,))
    root = make_node((), n=1, children=[node, sibling])
    backward([root, node], 1.0, [np.array([1.0, 0.0])], RainConfig(similarity_update=False))
    assert (sibling.n, sibling.value) == (1, 0.0)
    assert node.embedding == pytest.approx([1, 0])


@pytest.mark.parametrize(("distance", "tokens", "wanted"), [(0.2, 1, True), (0.25, 1, False), (0.25, 2, True)])
def test_alike_and_bad_children_need_another_by_unbiased_variance_per_token(distance, tokens, wanted):
    ids = tuple(range(tokens))  # the variance of two points is half of their distance squared: 0.02 and 0.03125
    node = make_node(children=[bad_child([0, 0], ids), bad_child([distance, 0], ids)])
    assert needs_addition(node, CONFIG) is wanted


def test_the_spread_is_the_norm_over_dimensions_not_their_sum_or_largest():
    step = 0.2  # each dimension has variance 0.02: norm 0.0283 < 0.03 < 0.04, the sum
    assert needs_addition(make_node(children=[bad_child([0, 0]), bad_child([step, step])]), CONFIG)
    step = 0.22  # each 0.0242: norm 0.0342 > 0.03 > 0.0242, the largest
    assert not needs_addition(make_node(children=[bad_child([0, 0]), bad_child([step, step])]), CONFIG)


def test_no_child_is_needed_where_one_is_good_or_unvisited_or_there_are_enough():
    one = [0.0, 0.0]
    assert needs_addition(make_node(children=[bad_child(one), bad_child(one)]), CONFIG)
    assert not needs_addition(make_node(children=[bad_child(one), bad_child(one, value=0.0)]), CONFIG)
    assert not needs_addition(make_node(children=[bad_child(one), make_node((2,))]), CONFIG)
    assert not needs_addition(make_node(children=[bad_child(one)]), CONFIG)
    assert not needs_addition(make_node(), CONFIG)
    assert needs_addition(make_node(children=[bad_child(one)] * 19), CONFIG)
    assert not needs_addition(make_node(children=[bad_child(one)] * 20), CONFIG)
    off = RainConfig(node_addition=False)
    assert not needs_addition(make_node(children=[bad_child(one), bad_child(one)]), off)

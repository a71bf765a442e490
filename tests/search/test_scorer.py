from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from nni_cream.errors import SearchError
from nni_cream.search import BoardEntry, PathSampler, PathScorer, PrioritizedBoard, Score, ValidationSubset
from nni_cream.search.objective import SCORES
from nni_cream.search.scorer import split_batch
from tests.search.small import LayerSpace, digits, supernet


def subset_of(dataset, size: int, chunk: int, classes: int | None = 10) -> ValidationSubset:
    loader = torch.utils.data.DataLoader(dataset, batch_size=70)
    return ValidationSubset.collect(loader, size, chunk, classes, "cpu")


def scorer_of_answers(size: int, chunk: int) -> PathScorer:
    """A 'network' that is right exactly on the images that the active path lists."""
    active: list[Tensor] = []
    targets = torch.ones(size, dtype=torch.long)
    chunks = tuple(zip(torch.arange(size).split(chunk), targets.split(chunk), strict=True))
    return PathScorer(
        ValidationSubset(chunks),
        predict=lambda indices: functional.one_hot(active[-1][indices].long(), 2),
        activate=lambda path: active.append(torch.tensor(path["right"])),
        undisturbed=nullcontext,
        score=SCORES["top1"],
    )


@given(
    st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_early_rejection_never_changes_a_board(answers, chunk, capacity, random):
    hasty, patient = PrioritizedBoard(capacity), PrioritizedBoard(capacity)
    scorer = scorer_of_answers(12, chunk)
    for step, right in enumerate(answers):
        path, cost = {"right": right}, float(random.randint(1, 3))
        full = scorer.score(path)
        assert full == sum(right) / 12
        patient.offer(BoardEntry(path, full, cost, step))
        early = scorer.score(path, above=hasty.bar(cost))
        if early is not None:
            assert early == full
            hasty.offer(BoardEntry(path, early, cost, step))
    assert hasty.entries == patient.entries


def test_a_hopeless_path_is_not_scored_to_the_end():
    scorer = scorer_of_answers(12, chunk=3)
    assert scorer.score({"right": [False] * 12}, above=0.9) is None
    assert scorer.images_seen == 3


def test_without_an_upper_bound_nothing_is_rejected():
    net, subset = supernet(LayerSpace()), subset_of(digits(40), 40, 10)
    scorer = PathScorer(subset, net.space, net.activate, net.detached, Score(lambda output, target: -target.float()))
    expected = -sum(float(target.sum()) for _, target in subset.chunks) / 40
    assert scorer.score(PathSampler(net.space).draw(), above=math.inf) == pytest.approx(expected)


def test_top1_equals_torchmetrics_on_the_frozen_network_with_batch_statistics():
    from torchmetrics.functional.classification import multiclass_accuracy

    torch.manual_seed(0)
    net, subset = supernet(LayerSpace()), subset_of(digits(100), 100, 100)
    scorer = PathScorer(subset, net.space, net.activate, net.detached, SCORES["top1"])
    path = PathSampler(net.space).draw()
    network = net.freeze(path).train()
    network.dropout.eval()
    x, y = subset.chunks[0]
    expected = multiclass_accuracy(network(x), y, 10, average="micro")
    assert scorer.score(path) == pytest.approx(float(expected))


def test_scoring_leaves_every_parameter_buffer_and_generator_as_it_was():
    net, subset = supernet(LayerSpace()), subset_of(digits(64), 64, 32)
    scorer = PathScorer(subset, net.space, net.activate, net.detached, SCORES["top1"])
    before = {name: value.clone() for name, value in net.space.state_dict().items()}
    generator = torch.get_rng_state()
    sampler = PathSampler(net.space)
    for _ in range(5):
        scorer.score(sampler.draw())
    assert all(torch.equal(before[name], value) for name, value in net.space.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(module.training for module in net.space.modules())


def test_subset_is_balanced_over_classes():
    subset = subset_of(digits(400), 100, 30)
    labels = torch.cat([y for _, y in subset.chunks])
    assert torch.bincount(labels, minlength=10).tolist() == [10] * 10


def test_chunks_are_nearly_equal_and_no_larger_than_asked():
    sizes = [len(y) for _, y in subset_of(digits(101), 101, 25).chunks]
    assert sum(sizes) == 101
    assert max(sizes) <= 25
    assert max(sizes) - min(sizes) <= 1


def test_a_class_with_too_few_images_is_filled_up_with_others():
    only_zeros = torch.utils.data.TensorDataset(torch.zeros(30, 1, 8, 8), torch.zeros(30, dtype=torch.long))
    assert len(subset_of(only_zeros, 20, 20)) == 20


def test_fewer_images_than_wanted_are_all_kept():
    assert len(subset_of(digits(50), 2048, 256)) == 50


@pytest.mark.parametrize("classes", [None, 3])
def test_targets_that_are_not_classes_are_taken_as_they_come(classes):
    data = torch.utils.data.TensorDataset(torch.zeros(30, 4), torch.randn(30, 3))
    assert len(subset_of(data, 20, 20, classes=classes)) == 20


def test_probe_is_the_first_images():
    subset = subset_of(digits(50), 50, 25)
    assert torch.equal(subset.probe(4), subset.chunks[0][0][:4])


def test_an_empty_loader_is_an_error():
    with pytest.raises(SearchError, match="no images"):
        ValidationSubset.collect([], 10, 5, 10, "cpu")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3), "holds Tensor"),
        ([torch.zeros(3)], r"holds \['Tensor'\]"),
        ({"x": 1}, "holds dict"),
        ([torch.zeros(3), "labels"], r"\['Tensor', 'str'\]"),
        ([torch.zeros(3), torch.zeros(2)], "3 inputs but 2 targets"),
        ([torch.zeros(3), torch.tensor(1)], "pair"),
    ],
)
def test_a_batch_that_is_not_a_pair_is_an_error(batch, message):
    with pytest.raises(SearchError, match=message):
        split_batch(batch)

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional

from nni_cream.errors import SearchError
from nni_cream.search import BoardEntry, PathScorer, PrioritizedBoard, RandomPaths, Score, ValidationSubset
from nni_cream.search.scoring.scorer import split_batch
from nni_cream.search.scoring.scores import SCORES
from tests.search.small import LayerSpace, digits, supernet


def subset_of(dataset, size: int, chunk: int, classes: int | None = 10) -> ValidationSubset:
    loader = torch.utils.data.DataLoader(dataset, batch_size=70)
    return ValidationSubset.collect(loader, size, chunk, classes, "cpu")


def scorer_of_answers(size: int, chunk: int, confidence: float | None = None) -> PathScorer:
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
        confidence=confidence,
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


def shuffled(right: int, size: int, generator: np.random.Generator) -> dict[str, list[bool]]:
    """A path that is right on so many images, in an order of chance."""
    return {"right": generator.permutation([True] * right + [False] * (size - right)).tolist()}


@pytest.mark.integration
@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize("right", [100, 130, 180, 195])
@pytest.mark.parametrize("chunk", [20, 100])
def test_a_path_just_above_the_bar_is_rejected_no_more_often_than_the_confidence_allows(confidence, right, chunk):
    size, trials, generator = 200, 1000, np.random.default_rng(1)
    scorer = scorer_of_answers(size, chunk, confidence)
    above = (right - 0.5) / size  # the worst case: any better path is further from it
    paths = [shuffled(right, size, generator) for _ in range(trials)]
    wrong = sum(scorer.score(path, above) is None for path in paths)
    # The confidence is that of each look, and there is one after every chunk but the last.
    allowed = min(1.0, (size // chunk - 1) * (1 - confidence))
    assert binomtest(wrong, trials, allowed, alternative="greater").pvalue > 0.001


@pytest.mark.integration
def test_at_the_default_confidence_paths_that_belong_on_the_board_are_kept():
    size, generator = 2048, np.random.default_rng(2)
    scorer = scorer_of_answers(size, 256, 0.9999)
    paths = [shuffled(1800, size, generator) for _ in range(1000)]
    assert sum(scorer.score(path, above=1799.5 / size) is None for path in paths) <= 3  # 7 looks: 0.7 are expected


def test_clearly_worse_paths_are_rejected_after_a_few_images():
    size, generator = 2048, np.random.default_rng(3)
    hasty, exact = scorer_of_answers(size, 64, 0.9999), scorer_of_answers(size, 64)
    for path in [shuffled(1229, size, generator) for _ in range(20)]:  # 0.6 against a bar of 0.85
        assert hasty.score(path, above=0.85) is exact.score(path, above=0.85) is None
    assert hasty.images_seen < 20 * size / 8
    assert exact.images_seen > 20 * size / 3


@given(
    st.lists(st.lists(st.booleans(), min_size=24, max_size=24), min_size=1, max_size=10),
    st.integers(1, 24),
    st.floats(0, 1),
    st.sampled_from([None, 0.6, 0.99, 0.9999]),
)
def test_a_path_that_is_not_rejected_has_its_exact_accuracy(answers, chunk, above, confidence):
    scorer, exact = scorer_of_answers(24, chunk, confidence), scorer_of_answers(24, chunk)
    for right in answers:
        ours, theirs = scorer.score({"right": right}, above), exact.score({"right": right}, above)
        assert ours is None or ours == sum(right) / 24
        if confidence is None or theirs is None:
            assert ours == theirs
        assert scorer.score({"right": right}) == sum(right) / 24  # nothing is rejected without a bar


@given(st.lists(st.booleans(), min_size=24, max_size=24), st.integers(1, 24), st.floats(0, 1))
def test_a_lower_confidence_rejects_whatever_a_higher_one_does_and_no_later(right, chunk, above):
    seen = []
    for confidence in (0.6, 0.99, 0.9999, None):
        scorer = scorer_of_answers(24, chunk, confidence)
        seen.append((scorer.score({"right": right}, above) is not None, scorer.images_seen))
    assert seen == sorted(seen)


def test_a_few_images_that_all_have_the_same_score_reject_nobody():
    scorer = scorer_of_answers(200, chunk=2, confidence=0.9999)
    unlucky = {"right": [False] * 2 + [True] * 198}
    assert scorer.score(unlucky, above=0.98) == 0.99


def test_with_a_confidence_even_a_score_without_a_bound_is_given_up():
    targets = torch.arange(200.0)
    chunks = tuple(zip(targets.split(10), targets.split(10), strict=True))
    worse = Score(lambda output, target: -1 - 0.1 * (target % 2))
    scorer = PathScorer(ValidationSubset(chunks), lambda x: x, lambda path: None, nullcontext, worse, 0.9999)
    assert scorer.score({}, above=1.0) is None
    assert scorer.images_seen < 200
    assert scorer.score({}, above=-1.05001) == pytest.approx(-1.05)


def test_without_an_upper_bound_nothing_is_certain_so_nothing_is_rejected():
    net, subset = supernet(LayerSpace()), subset_of(digits(40), 40, 10)
    scorer = PathScorer(subset, net.space, net.activate, net.detached, Score(lambda output, target: -target.float()))
    expected = -sum(float(target.sum()) for _, target in subset.chunks) / 40
    assert scorer.score(RandomPaths(net.space).draw(), above=math.inf) == pytest.approx(expected)


def test_top1_equals_torchmetrics_on_the_frozen_network_with_batch_statistics():
    from torchmetrics.functional.classification import multiclass_accuracy

    torch.manual_seed(0)
    net, subset = supernet(LayerSpace()), subset_of(digits(100), 100, 100)
    scorer = PathScorer(subset, net.space, net.activate, net.detached, SCORES["top1"])
    path = RandomPaths(net.space).draw()
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
    sampler = RandomPaths(net.space)
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


@pytest.mark.parametrize(("classes", "each"), [(100, 100), (1000, 50), (7, 300)])
def test_a_subset_of_images_sorted_by_class_is_balanced(classes, each):
    labels = torch.arange(classes).repeat_interleave(each)
    subset = subset_of(torch.utils.data.TensorDataset(torch.zeros(len(labels), 1), labels), 2048, 256, classes)
    counts = torch.bincount(torch.cat([y for _, y in subset.chunks]), minlength=classes)
    assert counts.sum() == 2048
    assert counts.max() - counts.min() <= 1
    first = subset.chunks[0][1]
    assert len(first.unique()) == min(classes, len(first)), "every chunk is a mixture of classes"


def test_a_rare_class_is_in_the_subset_and_the_others_fill_it_up():
    labels = torch.cat([torch.zeros(500), torch.ones(3), torch.full((500,), 2)]).long()
    subset = subset_of(torch.utils.data.TensorDataset(torch.arange(1003.0)[:, None], labels), 100, 100, 3)
    inputs, targets = subset.chunks[0]
    assert sorted(torch.bincount(targets).tolist()) == [3, 48, 49]
    assert sorted(inputs[targets == 0, 0].tolist()) == list(map(float, range(int((targets == 0).sum()))))


def test_a_subset_keeps_no_more_than_its_own_images_in_memory():
    subset = subset_of(digits(700), 20, 20)
    assert sum(x.untyped_storage().nbytes() for x, _ in subset.chunks) == 20 * 64 * 4


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
        ([torch.zeros(3), torch.zeros(2)], "3 inputs and 2 targets"),
        ([torch.zeros(3), torch.tensor(1)], "pair"),
    ],
)
def test_a_batch_that_is_not_a_pair_is_an_error(batch, message):
    with pytest.raises(SearchError, match=message):
        split_batch(batch)


def a_scorer(score: Score, targets: Tensor) -> PathScorer:
    chunks = ((torch.randn(len(targets), 10, generator=torch.Generator().manual_seed(0)), targets),)
    return PathScorer(ValidationSubset(chunks), lambda x: x, lambda path: None, nullcontext, score)


@pytest.mark.parametrize(
    "targets",
    [
        torch.zeros(6, 1, dtype=torch.long),
        functional.one_hot(torch.arange(10), 10),
    ],
)
def test_targets_that_the_score_does_not_fit_are_an_error(targets):
    with pytest.raises(SearchError, match=r"'top1' returned \(\d+, \d+\) .* expected a tensor of shape \(\d+,\)"):
        a_scorer(SCORES["top1"], targets).score({})


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda output, target: (output.argmax(1) == target).float().mean(), r"\(\)"),
        (lambda output, target: 0.5, "float"),
        (lambda output, target: output, r"\(6, 10\)"),
    ],
)
def test_a_score_that_is_not_one_a_sample_is_an_error(function, found):
    with pytest.raises(SearchError, match=f"<lambda>' returned {found} for outputs"):
        a_scorer(Score(function), torch.zeros(6, dtype=torch.long)).score({})


def test_a_score_above_its_bound_is_an_error():
    score = Score(lambda output, target: torch.full((len(target),), 1.5), upper_bound=1.0)
    with pytest.raises(SearchError, match=r"returned 1\.5; expected at most its upper_bound, 1\.0"):
        a_scorer(score, torch.zeros(6, dtype=torch.long)).score({})


def test_an_error_of_a_users_score_names_the_function():
    def broken_score(output, target):
        raise IndexError("out of reach")

    with pytest.raises(SearchError, match=r"score function .*broken_score' raised IndexError: out of reach") as caught:
        a_scorer(Score(broken_score), torch.zeros(6, dtype=torch.long)).score({})
    assert isinstance(caught.value.__cause__, IndexError)


@pytest.mark.parametrize(("size", "chunk", "smallest"), [(63, 2, 2), (64, 2, 2), (3, 2, 3), (9, 4, 3), (3, 1, 1)])
def test_no_image_is_alone_in_its_chunk_unless_all_are_wanted_alone(size: int, chunk: int, smallest: int):
    subset = subset_of(digits(100), size, chunk)
    assert len(subset) == size
    assert min(len(targets) for _, targets in subset.chunks) == smallest

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torch.nn import functional

from nni_cream.errors import SearchError
from nni_cream.search import BoardEntry, PathScorer, PrioritizedBoard, RandomPaths, Score, ValidationSubset
from nni_cream.search.scoring.scores import SCORES
from tests.search.small import LayerSpace, digits, supernet


def subset_of(dataset, size: int, chunk: int) -> ValidationSubset:
    return ValidationSubset.collect(torch.utils.data.DataLoader(dataset, batch_size=70), size, chunk, "cpu")


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
    size, trials, generator = 200, 400, np.random.default_rng(1)
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


def a_scorer(score: Score, targets: Tensor) -> PathScorer:
    chunks = ((torch.randn(len(targets), 10, generator=torch.Generator().manual_seed(0)), targets),)
    return PathScorer(ValidationSubset(chunks), lambda x: x, lambda path: None, nullcontext, score)


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


def test_a_figure_of_the_whole_subset_is_exact_over_chunks_and_never_rejected_early():
    logits, labels = torch.randn(90, 3), torch.tensor([0] * 70 + [1] * 15 + [2] * 5)[torch.randperm(90)]
    subset = ValidationSubset(tuple(zip(logits.split(11), labels.split(11), strict=True)))
    scorer = PathScorer(subset, lambda x: x, lambda path: None, nullcontext, SCORES["balanced_accuracy"], 0.9999)
    expected = balanced_accuracy_score(labels, logits.argmax(1))
    assert scorer.score({}, above=math.inf) == pytest.approx(expected)
    assert scorer.images_seen == 90


def test_a_score_that_does_not_fit_is_found_before_the_first_step():
    with pytest.raises(SearchError, match="score is 'top1' for outputs"):
        a_scorer(SCORES["top1"], torch.zeros(6)).check({})


@pytest.mark.parametrize("name", ["top1", "balanced_accuracy"])
@pytest.mark.parametrize(
    ("labels", "words"), [([0, 1, -1, 2, 1, 0], "from -1 to 2"), ([3, 1, 2, 1, 1, 2], "from 1 to 3")]
)
def test_labels_that_are_no_classes_are_refused_whichever_chunk_has_them(name, labels, words):
    chunks = tuple(zip(torch.randn(6, 3).split(2), torch.tensor(labels).split(2), strict=True))
    scorer = PathScorer(ValidationSubset(chunks), lambda x: x, lambda path: None, nullcontext, SCORES[name])
    with pytest.raises(SearchError, match=f"score is '{name}' for labels {words}; expected 0 to 2"):
        scorer.check({})


@pytest.mark.parametrize(("outputs", "told"), [(6, 0), (7, 1)])
def test_outputs_without_a_class_are_told(outputs, told, caplog):
    chunks = tuple(zip(torch.randn(6, outputs).split(2), torch.tensor([0, 1, 2, 2, 1, 0]).split(2), strict=True))
    PathScorer(ValidationSubset(chunks), lambda x: x, lambda path: None, nullcontext, SCORES["top1"]).check({})
    assert [f"for {outputs} outputs a sample, and the highest label is 2" in text for text in warnings_of(caplog)] == [
        True
    ] * told


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("nni_cream")]


def test_paths_that_all_score_the_same_are_told_once(caplog):
    scorer = scorer_of_answers(12, chunk=3)
    for index in range(25):
        scorer.score({"right": [True] * 3 + [False] * 9, "other": index})
        assert len(warnings_of(caplog)) == (index >= 9)
    assert "score is 'top1' and gave the first 10 paths the same value, 0.25" in warnings_of(caplog)[0]


def test_one_path_scored_often_or_one_other_score_is_no_reason_to_warn(caplog):
    scorer = scorer_of_answers(12, chunk=3)
    for _ in range(20):
        scorer.score({"right": [True] * 12})
    for index in range(20):
        scorer.score({"right": [True] * 11 + [index != 5], "other": index})
    assert not warnings_of(caplog)


_BLOCKS = {
    "blocks are classes": torch.arange(2000) // 200,
    "labels do not show the blocks": torch.zeros(2000).long(),
    "one class is frequent and easy": (torch.arange(2000) // 100).clamp(max=10),
}


@pytest.mark.parametrize("size", [2000, 1000])
@pytest.mark.parametrize("blocks", _BLOCKS)
def test_no_path_above_the_bar_is_rejected_where_blocks_of_images_are_unequally_hard(size, blocks):
    """As in ImageNet's order: a block of images is a class, and classes are easy or hard."""
    generator = np.random.default_rng(0)
    active = [torch.zeros(0)]
    dataset = torch.utils.data.TensorDataset(torch.arange(2000)[:, None], _BLOCKS[blocks])
    subset = ValidationSubset.collect(torch.utils.data.DataLoader(dataset, batch_size=100), size, 200, "cpu")
    scorer = PathScorer(
        subset,
        predict=lambda inputs: inputs[:, 0],
        activate=lambda path: active.append(answers[path["number"]]),
        undisturbed=nullcontext,
        score=Score(lambda numbers, _: active[-1][numbers], upper_bound=1.0),
        confidence=0.9999,
    )
    hardness = np.repeat(np.linspace(0.6, 0.0, 10), 200)
    answers = torch.tensor(generator.random((300, 2000)) < 0.9 - hardness).double()
    scores = [scorer.score({"number": number}) for number in range(300)]
    again = [scorer.score({"number": number}, above=score - 1e-6) for number, score in enumerate(scores)]
    assert again == scores


def test_images_of_another_shape_are_no_reason_to_reject_a_path():
    """Nothing is known of the large images from the small ones, which come first."""
    chunks = tuple((torch.zeros(100, side), torch.zeros(100)) for side in (2, 2, 2, 3, 3))
    right = Score(lambda output, _: (output == 3).double(), upper_bound=1.0)
    scorer = PathScorer(
        ValidationSubset(chunks),
        predict=lambda inputs: torch.full((len(inputs),), float(inputs.shape[1])),
        activate=lambda path: None,
        undisturbed=nullcontext,
        score=right,
        confidence=0.9999,
    )
    assert scorer.score({}, above=0.39) == 0.4

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, mean_squared_error
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_accuracy, multiclass_jaccard_index, multilabel_accuracy

from nni_cream.errors import SearchError
from nni_cream.options import options_of
from nni_cream.search import SearchSettings
from nni_cream.search.scoring.scores import SCORES, Score, add_sums
from nni_cream.search.teaching.losses import DISTILLATIONS

N = 60


def score_of(name: str, output: Tensor, target: Tensor, chunk: int = 7) -> float:
    """The score of a whole set, seen in chunks."""
    score, sums = SCORES[name], []
    for part, labels in zip(output.split(chunk), target.split(chunk), strict=True):
        sums = add_sums(sums, score.sums(part, labels))
    return score.of(sums, len(target))


def test_top1_equals_scikit_learn():
    logits, labels = torch.randn(N, 5), torch.randint(5, (N,))
    assert score_of("top1", logits, labels) == pytest.approx(accuracy_score(labels, logits.argmax(1)))


@pytest.mark.parametrize("logit_shape", [(N,), (N, 1)])
@pytest.mark.parametrize("label_shape", [(N,), (N, 1)])
@pytest.mark.parametrize("dtype", [torch.long, torch.float32, torch.bool, torch.uint8])
def test_the_scores_of_one_logit_equal_torchmetrics_and_scikit_learn(logit_shape, label_shape, dtype):
    logits, labels = torch.randn(N), (torch.rand(N) < 0.2).long()
    shaped = logits.reshape(logit_shape), labels.to(dtype).reshape(label_shape)
    expected = float(binary_accuracy(logits.sigmoid(), labels))
    assert score_of("binary", *shaped) == pytest.approx(expected)
    balanced = balanced_accuracy_score(labels, logits > 0)
    assert score_of("balanced_accuracy", *shaped) == pytest.approx(balanced)


@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
def test_multilabel_equals_torchmetrics(dtype):
    logits, labels = torch.randn(N, 7), torch.randint(2, (N, 7))
    expected = multilabel_accuracy(logits.sigmoid(), labels, num_labels=7, average="micro")
    assert score_of("multilabel", logits, labels.to(dtype)) == pytest.approx(float(expected))


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("absent", [None, 3])
def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_occur(absent):
    logits = torch.randn(N, 4)
    labels = torch.from_numpy(np.random.default_rng(0).choice(4, N, p=[0.8, 0.1, 0.06, 0.04]))
    labels[labels == absent] = 0
    expected = balanced_accuracy_score(labels, logits.argmax(1))
    for chunk in (1, 7, N):
        assert score_of("balanced_accuracy", logits, labels, chunk) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.long, torch.uint8])
@pytest.mark.parametrize("absent", [False, True])
def test_miou_is_that_of_the_whole_set_whatever_the_chunks(dtype, absent):
    logits, labels = torch.randn(9, 5, 6, 8), torch.randint(5, (9, 6, 8))
    logits[:, :3] += 1  # some classes are rarer than others
    if absent:  # neither labelled nor predicted anywhere
        logits[:, 4] = -100
        labels[labels == 4] = 0
    labels[torch.rand(9, 6, 8) < 0.2] = 255
    labels[0] = 255  # an image without a labelled pixel
    expected = float(multiclass_jaccard_index(logits, labels, num_classes=5, ignore_index=255))
    for chunk in (1, 4, 9):
        assert score_of("miou", logits, labels.to(dtype), chunk) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "target"),
    [((N,), (N,)), ((N, 1), (N,)), ((N,), (N, 1)), ((N, 3), (N, 3)), ((N, 1, 4, 4), (N, 4, 4)), ((N, 2, 3), (N, 2, 3))],
)
def test_negative_squared_error_equals_scikit_learn(shape, target):
    outputs, targets = torch.randn(shape), torch.randn(target)
    expected = -mean_squared_error(outputs.reshape(N, -1), targets.reshape(N, -1))
    assert score_of("negative_squared_error", outputs, targets) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"), [("top1", accuracy_score), ("balanced_accuracy", balanced_accuracy_score)]
)
@pytest.mark.parametrize("part", [0.0, 0.3])
def test_mixed_labels_count_as_parts_of_a_sample_of_each_class(name, expected, part):
    logits, one, other = torch.randn(N, 4), torch.randint(4, (N,)), torch.randint(4, (N,))
    target = (1 - part) * functional.one_hot(one, 4) + part * functional.one_hot(other, 4).float()
    predicted, weights = logits.argmax(1).repeat(2), torch.tensor([1 - part, part]).repeat_interleave(N)
    # As arrays: scikit-learn 1.5 takes tensors with weights for arrays on different devices.
    wanted = expected(torch.cat([one, other]).numpy(), predicted.numpy(), sample_weight=weights.numpy())
    for chunk in (7, N):
        assert score_of(name, logits, target, chunk) == pytest.approx(wanted, abs=1e-6)


LOGITS, LABELS = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
DENSE, PIXELS = torch.randn(6, 3, 4, 4), torch.randint(3, (6, 4, 4))


@pytest.mark.parametrize(
    ("name", "output", "target", "words"),
    [
        ("top1", torch.randn(6, 1), torch.ones(6), [r"\(6, 1\)", r"float32 targets \(6,\)", "'binary'"]),
        ("top1", torch.randn(6, 1), torch.ones(6, dtype=torch.long), ["int64", "'negative_squared_error'"]),
        ("top1", torch.randn(6), torch.ones(6), [r"outputs \(6,\)", "'binary'"]),
        ("top1", LOGITS, LABELS.float(), ["float32 targets", "integer labels"]),
        ("top1", LOGITS, LABELS[:, None], [r"\(6, 1\)", r"labels \(N,\) for 'top1'"]),
        ("top1", LOGITS, functional.one_hot(LABELS, 3), [r"\(6, 3\)", "'multilabel'"]),
        ("top1", LOGITS, torch.rand(6, 3), ["'negative_squared_error'"]),
        ("top1", DENSE, PIXELS, [r"\(6, 3, 4, 4\)", "'miou'"]),
        ("top1", torch.randn(6, 3, 5), torch.zeros(6, 5, dtype=torch.long), [r"\(6, 3, 5\)"]),
        ("binary", LOGITS, LABELS, ["one logit", "'top1'"]),
        ("binary", torch.randn(6), torch.tensor([-1, 1, 1, 1, -1, 1]), [r"\[-1.0, 1.0\]", "labels 0 and 1"]),
        ("binary", torch.randn(6), torch.rand(6), ["labels 0 and 1"]),
        ("multilabel", LOGITS, LABELS, ["same shape"]),
        ("multilabel", LOGITS, torch.rand(6, 3), ["labels 0 and 1"]),
        ("balanced_accuracy", LOGITS, LABELS + 1, ["labels from 1 to 3", "0 to 2"]),
        ("balanced_accuracy", LOGITS, LABELS.float(), ["integer label"]),
        ("balanced_accuracy", torch.randn(6), LABELS.float() + 2, ["labels 0 and 1"]),
        ("miou", DENSE, PIXELS - 1, ["labels from -1 to 1", "0 to 2"]),
        ("miou", DENSE, PIXELS[:, :2], [r"\(6, 2, 4\)"]),
        ("miou", LOGITS, LABELS, ["'top1'"]),
        ("negative_squared_error", torch.randn(6, 3), torch.randn(6), ["same shape"]),
        ("negative_squared_error", torch.randn(6, 2, 3), torch.randn(6, 3, 2), ["same shape"]),
        ("negative_squared_error", torch.randn(6, 6), torch.randn(6, 1), ["same shape"]),
    ],
)
def test_outputs_and_targets_that_do_not_fit_are_refused_with_what_would(name, output, target, words):
    for word in (f"score is '{name}'", *words):
        with pytest.raises(SearchError, match=word):
            SCORES[name].sums(output, target)


def test_a_figure_of_the_users_own_is_computed_from_counts():
    """F1 of class 1, from its hits, predictions and labels."""

    def f1(output: Tensor, target: Tensor) -> Tensor:
        predicted, positive = output.argmax(1) == 1, target == 1
        return torch.stack([predicted & positive, predicted, positive], dim=1)

    from sklearn.metrics import f1_score

    logits, labels = torch.randn(N, 3), torch.randint(3, (N,))
    score = Score(f1, value=lambda sums: 2 * sums[0] / (sums[1] + sums[2]))
    sums = add_sums(score.sums(logits[:20], labels[:20]), score.sums(logits[20:], labels[20:]))
    expected = f1_score(labels, logits.argmax(1), labels=[1], average="macro")
    assert score.of(sums, N) == pytest.approx(expected)


def test_counts_that_are_not_one_row_a_sample_are_refused():
    with pytest.raises(SearchError, match=r"returned \(3,\) .* expected a tensor of shape \(6, k\)"):
        Score(lambda output, target: output.sum(0), value=sum).sums(LOGITS, LABELS)


@pytest.mark.parametrize(("key", "known"), [("score", SCORES), ("distillation", DISTILLATIONS)])
def test_a_file_takes_the_names_that_python_takes(key, known):
    (rule,) = (option.rule for option in options_of(SearchSettings) if option.name == key)
    assert [rule.check.validate(name) for name in known] == list(known)

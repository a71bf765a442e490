from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nni_cream.errors import ConfigError, SearchError
from nni_cream.search.scoring.named_scores import resolve_score
from nni_cream.search.scoring.scores import SCORES, Score
from nni_cream.search.supernet.outputs import main_output
from nni_cream.search.teaching.losses import (
    DISTILLATIONS,
    Distillation,
    binary_cross_entropy,
    mean_squared_error,
    resolve_distillation,
    soft_cross_entropy,
)

STUDENT, TEACHER = torch.randn(6, 4), torch.randn(6, 4)


def test_soft_cross_entropy_equals_torchs_with_soft_targets():
    expected = functional.cross_entropy(STUDENT, TEACHER.softmax(1))
    torch.testing.assert_close(soft_cross_entropy(STUDENT, TEACHER), expected)


@pytest.mark.parametrize("temperature", [0.5, 1, 4.0])
def test_the_temperature_softens_both_and_its_square_keeps_the_size_of_the_gradient(temperature):
    """The oracle is the Kullback-Leibler divergence of the softened outputs, as torch has it, plus their entropy."""
    softened = functional.log_softmax(TEACHER / temperature, dim=1)
    divergence = functional.kl_div(
        functional.log_softmax(STUDENT / temperature, dim=1), softened, reduction="batchmean", log_target=True
    )
    entropy = -(softened.exp() * softened).sum(dim=1).mean()
    found = soft_cross_entropy(STUDENT, TEACHER, temperature)
    torch.testing.assert_close(found, temperature**2 * (divergence + entropy))


def test_at_high_temperatures_the_gradient_is_that_of_the_squared_difference_of_centred_logits():
    """Hinton et al. (2015), equation 4: the gradient tends to (z - v) / (N T^2), here times T^2."""
    student = STUDENT.double().requires_grad_()
    (found,) = torch.autograd.grad(soft_cross_entropy(student, TEACHER.double(), 1e4), student)
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (student.detach(), TEACHER.double())]
    torch.testing.assert_close(found, (centred[0] - centred[1]) / STUDENT.shape[1] / len(STUDENT), rtol=1e-2, atol=1e-5)


def test_soft_cross_entropy_works_in_single_precision_at_least():
    loss = soft_cross_entropy(STUDENT.half(), TEACHER.half())
    assert loss.dtype == torch.float32
    assert soft_cross_entropy(STUDENT.double(), TEACHER).dtype == torch.float64


def test_mean_squared_error_equals_torchs():
    torch.testing.assert_close(mean_squared_error(STUDENT, TEACHER), functional.mse_loss(STUDENT, TEACHER))


def test_binary_cross_entropy_equals_the_divergence_of_bernoulli_distributions():
    """The oracle is torch's Kullback-Leibler divergence of distributions, plus the teacher's entropy."""
    student, teacher = (torch.distributions.Bernoulli(logits=logits.double()) for logits in (STUDENT, TEACHER))
    expected = (torch.distributions.kl_divergence(teacher, student) + teacher.entropy()).mean()
    torch.testing.assert_close(binary_cross_entropy(STUDENT.double(), TEACHER), expected)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 4)])
def test_binary_cross_entropy_pulls_the_student_to_the_teacher(shape):
    student, teacher = torch.zeros(shape, requires_grad=True), torch.full(shape, 2.0)
    binary_cross_entropy(student, teacher).backward()
    assert (student.grad < 0).all()
    found = binary_cross_entropy(student.detach().half(), teacher.half())
    assert found.dtype == torch.float32


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 4, 4)])
def test_the_softmax_of_one_logit_is_refused(shape):
    distillation = DISTILLATIONS["soft_cross_entropy"]
    with pytest.raises(SearchError, match=r"softmax of one logit teaches nothing\. Take 'binary_cross_entropy'"):
        distillation.loss(torch.randn(shape), torch.randn(shape))
    with pytest.raises(SearchError, match="distillation is 'soft_cross_entropy' for outputs"):
        distillation.features(torch.randn(shape))


def test_the_outputs_of_segmentation_are_distilled_pixel_by_pixel():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    pixels = [logits.movedim(1, -1).reshape(-1, 5) for logits in (student, teacher)]
    torch.testing.assert_close(soft_cross_entropy(student, teacher), soft_cross_entropy(*pixels))


def test_the_features_of_classification_are_probabilities():
    torch.testing.assert_close(DISTILLATIONS["soft_cross_entropy"].features(STUDENT), STUDENT.softmax(1))
    assert torch.equal(DISTILLATIONS["mean_squared_error"].features(STUDENT), STUDENT)


def test_the_features_of_one_logit_are_its_probability():
    torch.testing.assert_close(DISTILLATIONS["binary_cross_entropy"].features(STUDENT), STUDENT.sigmoid())


@dataclass
class ModelOutput:
    """As Hugging Face's networks return it."""

    loss: float
    logits: Tensor


@pytest.mark.parametrize(
    "output",
    [
        STUDENT,
        (STUDENT, TEACHER),
        {"logits": STUDENT, "out": TEACHER},
        {"out": STUDENT, "aux": TEACHER},
        [{"out": STUDENT}, TEACHER],
        {"logits": (STUDENT, TEACHER)},
        ModelOutput(0.5, STUDENT),
    ],
)
def test_the_main_output_is_found(output):
    assert main_output(output) is STUDENT


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"masks": STUDENT, "aux": TEACHER}, r"a dict with \['masks', 'aux'\]; expected .* 'logits' or 'out'"),
        ("logits", "a str; expected"),
        ([], "a list; expected"),
        (None, "a NoneType; expected"),
        ({"logits": None}, "a NoneType; expected"),
    ],
)
def test_an_output_without_a_main_tensor_is_refused_with_what_it_holds(output, words):
    with pytest.raises(SearchError, match=f"the network returned {words}"):
        main_output(output)


def test_names_functions_and_complete_objects_are_accepted():
    def own(a, b):
        return a - b

    assert resolve_distillation("soft_cross_entropy").loss is soft_cross_entropy
    assert resolve_distillation(own).loss is own
    distillation, score = Distillation(own), Score(own, 2.0)
    assert resolve_distillation(distillation) is distillation
    assert resolve_score("top1") is SCORES["top1"]
    assert resolve_score(own) == Score(own, None)
    assert resolve_score(score) is score


@pytest.mark.parametrize("resolve", [resolve_distillation, resolve_score])
@pytest.mark.parametrize("value", ["top5", 3, None])
def test_anything_else_is_refused_with_the_known_names(resolve, value):
    with pytest.raises(ConfigError, match="expected one of"):
        resolve(value)

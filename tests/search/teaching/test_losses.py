from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nni_cream.errors import ConfigError
from nni_cream.search.scoring.scores import SCORES, Score, negative_squared_error, resolve_score, top1
from nni_cream.search.supernet.outputs import main_output
from nni_cream.search.teaching.losses import (
    DISTILLATIONS,
    Distillation,
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


def test_top1_is_one_where_the_label_has_the_largest_logit():
    assert top1(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])).tolist() == [1.0, 0.0]


def test_negative_squared_error_is_a_mean_over_the_values_of_a_sample():
    output, target = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])
    assert negative_squared_error(output, target).tolist() == [0.0, -4.0]


def test_the_features_of_classification_are_probabilities():
    torch.testing.assert_close(DISTILLATIONS["soft_cross_entropy"].features(STUDENT), STUDENT.softmax(1))
    assert torch.equal(DISTILLATIONS["mean_squared_error"].features(STUDENT), STUDENT)


def test_main_output_is_found_in_tuples_and_dicts():
    assert main_output((STUDENT, TEACHER)) is STUDENT
    assert main_output({"logits": STUDENT}) is STUDENT
    with pytest.raises(TypeError, match="returned str"):
        main_output("logits")


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

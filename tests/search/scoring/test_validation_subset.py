from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nni_cream.errors import SearchError
from nni_cream.search import ValidationSubset
from nni_cream.search.scoring.validation_subset import split_batch
from tests.search.small import digits


def subset_of(dataset, size: int, chunk: int, seed: int = 0) -> ValidationSubset:
    return ValidationSubset.collect(DataLoader(dataset, batch_size=70), size, chunk, "cpu", seed)


def numbered(labels: Tensor) -> TensorDataset:
    """Images that hold their own number."""
    return TensorDataset(torch.arange(float(len(labels)))[:, None], labels)


def counts_of(subset: ValidationSubset, classes: int) -> list[int]:
    return torch.bincount(torch.cat([y for _, y in subset.chunks]).flatten().long(), minlength=classes).tolist()


def images_of(subset: ValidationSubset) -> list[int]:
    return torch.cat([x for x, _ in subset.chunks]).flatten().long().tolist()


def imbalanced(order: str) -> Tensor:
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    return {"sorted": labels, "reversed": labels.flip(0), "shuffled": labels[torch.randperm(1000)]}[order]


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
@pytest.mark.parametrize(("size", "expected"), [(60, [54, 5, 1]), (100, [90, 9, 1]), (500, [450, 45, 5])])
def test_the_classes_have_their_shares_of_the_validation_set_whatever_the_number_and_the_order(order, size, expected):
    subset = subset_of(numbered(imbalanced(order)), size, 50)
    assert counts_of(subset, 3) == expected
    assert len(set(images_of(subset))) == size


def test_every_chunk_has_the_mixture_of_the_classes():
    chunks = subset_of(numbered(imbalanced("sorted")), 500, 50).chunks
    for _, labels in chunks:
        share = torch.bincount(labels, minlength=3) / len(labels)
        assert (share - torch.tensor([0.9, 0.09, 0.01])).abs().max() < 0.05


@pytest.mark.parametrize(("classes", "each"), [(100, 100), (1000, 50), (7, 300)])
def test_a_subset_of_images_sorted_by_class_spans_the_classes(classes, each):
    labels = torch.arange(classes).repeat_interleave(each)
    counts = counts_of(subset_of(TensorDataset(torch.zeros(len(labels), 1), labels), 2048, 256), classes)
    assert sum(counts) == min(2048, len(labels))
    assert max(counts) - min(counts) <= 1


def test_the_images_of_a_sorted_class_come_from_all_of_it():
    drawn = Counter(
        image // 250
        for seed in range(40)
        for image in images_of(subset_of(numbered(torch.arange(2).repeat_interleave(500)), 100, 50, seed))
    )
    assert max(drawn.values()) < 1.15 * min(drawn.values())


def test_the_draw_follows_the_seed():
    first, again, other = (images_of(subset_of(numbered(imbalanced("sorted")), 60, 60, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_rare_class_is_in_the_subset():
    labels = torch.cat([torch.zeros(500), torch.ones(3), torch.full((500,), 2)]).long()
    counts = counts_of(subset_of(numbered(labels), 100, 100), 3)
    assert counts[1] == 1
    assert sum(counts) == 100
    assert abs(counts[0] - counts[2]) <= 1


def test_many_rare_classes_are_drawn_by_chance_so_that_shares_hold_on_average():
    labels = torch.cat(
        [torch.zeros(1000), torch.arange(1, 501).repeat_interleave(2)]
    ).long()  # half of all is one class
    frequent = [counts_of(subset_of(numbered(labels), 600, 100, seed), 501)[0] for seed in range(20)]
    assert sum(frequent) / 20 == pytest.approx(300, abs=5)


def test_more_classes_than_images_wanted_keep_no_more_than_the_images_wanted():
    subset = subset_of(numbered(torch.arange(3000)), 60, 60)
    assert len(set(images_of(subset))) == 60
    halves = Counter(image // 1500 for image in images_of(subset))
    assert min(halves.values()) > 15


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_labels_of_one_logit_are_classes_too(shape):
    labels = torch.tensor([0.0] * 950 + [1.0] * 50).reshape(shape)
    assert counts_of(subset_of(TensorDataset(torch.zeros(1000, 1), labels), 60, 60), 2) == [57, 3]


@pytest.mark.parametrize("targets", [torch.randn(300, 3), torch.randn(300), torch.zeros(300, 4, 4)])
def test_images_whose_targets_are_no_classes_are_drawn_at_random(targets):
    images = images_of(subset_of(TensorDataset(torch.arange(300.0)[:, None], targets), 60, 60))
    assert len(set(images)) == 60
    assert max(images) > 200


@pytest.mark.parametrize(("size", "frequent"), [(1000, 0.5), (600, 0.5), (1000, 0.9), (600, 0.9)])
def test_frequent_and_rare_classes_have_their_share_of_each_chunk_whether_all_images_are_taken_or_some(size, frequent):
    many = round(1000 * frequent)
    rare = torch.arange(1, 1 + (1000 - many) // 5).repeat_interleave(5)
    for _, labels in subset_of(numbered(torch.cat([torch.zeros(many).long(), rare])), size, 100).chunks:
        assert float((labels == 0).float().mean()) == pytest.approx(frequent, abs=0.1)


@pytest.mark.parametrize("size", [1000, 500])
def test_each_chunk_spans_the_labels_of_images_that_are_sorted_by_class(size):
    for _, labels in subset_of(numbered(torch.arange(50).repeat_interleave(20)), size, 100).chunks:
        assert len(labels.unique()) == 50


@pytest.mark.parametrize("size", [1000, 500])
def test_images_of_a_class_are_in_no_order(size):
    """Video frames and patients come in blocks."""
    images = torch.tensor(images_of(subset_of(numbered(torch.arange(2).repeat_interleave(500)), size, 100))).float()
    for part in images.chunk(5):
        assert float(part.mean()) == pytest.approx(500, abs=90)


@pytest.mark.parametrize("size", [1000, 500])
def test_the_probe_sees_as_many_classes_as_it_has_images(size):
    labels = torch.cat([torch.zeros(940), torch.arange(1, 7).repeat_interleave(10)]).long()
    dataset = TensorDataset(labels.float()[:, None], labels)
    assert len(subset_of(dataset, size, 256).probe(4).unique()) == 4


def test_a_loader_without_an_end_is_read_no_further_than_told():
    def endless():
        while True:
            yield torch.zeros(10, 2), torch.zeros(10, dtype=torch.long)

    assert len(ValidationSubset.collect(endless(), 50, 50, "cpu", most=200)) == 50


def lengths(*sizes: int, dense: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Batches of four images, each batch padded to a length of its own."""
    return [
        (torch.full((4, size), float(size)), torch.full((4, size), size) if dense else torch.arange(4))
        for size in sizes
    ]


@pytest.mark.parametrize("dense", [False, True])
def test_images_of_one_shape_are_together(dense):
    subset = ValidationSubset.collect(lengths(5, 9, 5, 7, 5, dense=dense), 20, 8, "cpu")
    sizes = [tuple(x.shape) for x, _ in subset.chunks]
    assert sizes[:2] == [(6, 5), (6, 5)]
    assert sorted(sizes[2:]) == [(4, 7), (4, 9)]
    for x, y in subset.chunks:
        assert (x == x.shape[1]).all()
        assert not dense or torch.equal(x, y.float())


def test_targets_of_different_shapes_are_apart_too():
    batches = [(torch.zeros(2, 3), torch.zeros(2, boxes, 4)) for boxes in (1, 2, 1)]
    assert [tuple(y.shape) for _, y in ValidationSubset.collect(batches, 6, 6, "cpu").chunks] == [(4, 1, 4), (2, 2, 4)]


def test_chunks_are_nearly_equal_and_no_larger_than_asked():
    sizes = [len(y) for _, y in subset_of(digits(101), 101, 25).chunks]
    assert sum(sizes) == 101
    assert max(sizes) <= 25
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("size", "chunk", "smallest"), [(63, 2, 2), (64, 2, 2), (3, 2, 3), (9, 4, 3), (3, 1, 1)])
def test_no_image_is_alone_in_its_chunk_unless_all_are_wanted_alone(size: int, chunk: int, smallest: int):
    subset = subset_of(digits(100), size, chunk)
    assert len(subset) == size
    assert min(len(targets) for _, targets in subset.chunks) == smallest


def test_fewer_images_than_wanted_are_all_kept():
    assert len(subset_of(digits(50), 2048, 256)) == 50


def test_one_class_alone_fills_the_subset():
    only_zeros = TensorDataset(torch.zeros(30, 1, 8, 8), torch.zeros(30, dtype=torch.long))
    assert len(subset_of(only_zeros, 20, 20)) == 20


def test_a_subset_keeps_no_more_than_its_own_images_in_memory():
    subset = subset_of(digits(700), 20, 20)
    assert sum(x.untyped_storage().nbytes() for x, _ in subset.chunks) == 20 * 64 * 4


def test_probe_is_the_first_images():
    subset = subset_of(digits(50), 50, 25)
    assert torch.equal(subset.probe(4), subset.chunks[0][0][:4])


def test_an_empty_loader_is_an_error():
    with pytest.raises(SearchError, match="no images"):
        ValidationSubset.collect([], 10, 5, "cpu")


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

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from humanpref.errors import DataError
from humanpref.evaluation.instances import gather, missing_images, repeated, without_missing
from humanpref.records import ImageRef, Ranking
from tests.toys import ranking


def test_a_given_consensus_is_kept_and_annotators_are_put_in_its_order() -> None:
    consensus, ann = ranking("one", (1, 2, 3)), ranking("one", (3, 1, 2), "ann")
    turned = replace(ann, images=ann.images[::-1], ranks=ann.ranks[::-1])
    (instance,) = gather([consensus, turned])
    assert instance.consensus == consensus
    assert instance.annotations == (ann,)
    assert instance.given


def test_without_a_consensus_it_is_the_order_of_the_mean_ranks() -> None:
    people = [ranking("one", ranks, who) for who, ranks in (("a", (1, 2, 3)), ("b", (1, 3, 2)), ("c", (3, 1, 2)))]
    (instance,) = gather(people)  # sums 5, 6, 7
    assert instance.consensus.ranks == (1, 2, 3)
    assert not instance.given
    (instance,) = gather(people[:2])  # sums 2, 5, 5: a tie
    assert instance.consensus.ranks == (1, 2, 2)
    (instance,) = gather(people[2:])  # one annotator speaks for all
    assert instance.consensus.ranks == (3, 1, 2)
    assert instance.consensus.annotator is None


def test_nobody_counts_more_for_writing_ranks_with_gaps() -> None:
    people = [ranking("one", ranks, who) for who, ranks in (("a", (1, 2, 3)), ("b", (1, 2, 3)), ("c", (1000, 1, 2)))]
    assert gather(people)[0].consensus.ranks == (1, 1, 3)  # places 1 1 3, 2 2 1, 3 3 2
    for ties in ((1, 1, 1, 2, 2, 2), (1, 1, 1, 4, 4, 4)):
        two = [ranking("one", ties, "a"), ranking("one", (6, 5, 4, 3, 2, 1), "b")]
        assert gather(two)[0].consensus.ranks == (5, 3, 1, 5, 3, 1)


def test_a_generator_that_one_ranking_tells_is_known_to_all() -> None:
    one, two = ranking("one", (1, 2), "a"), ranking("one", (2, 1), "b")
    told = replace(two, images=tuple(ImageRef(image.path, "sd") for image in two.images))
    (instance,) = gather([one, told])
    assert [image.source for image in instance.consensus.images] == ["sd", "sd"]
    assert len(instance.annotations) == 2
    with pytest.raises(DataError, match="said to be by dalle and by sd"):
        gather([told, replace(one, images=tuple(ImageRef(image.path, "dalle") for image in one.images))])


def test_the_consensus_of_pairs_is_the_share_of_votes() -> None:
    first, second = ImageRef(Path("a")), ImageRef(Path("b"))
    votes = [Ranking.of_pair("p", first, second, p, annotator=str(i)) for i, p in enumerate((1.0, 1.0, 0.0, 0.5))]
    (instance,) = gather(votes)
    assert instance.consensus.first_preferred == 0.625
    swapped = [Ranking.of_pair("p", second, first, 0.3, annotator="z"), *votes]
    assert gather(swapped)[0].annotations[1].ranks == (2, 1)


def test_ids_keep_separate_judgements_of_the_same_images_apart() -> None:
    same = [replace(ranking("one", (1, 2)), id=str(i)) for i in range(2)]
    assert len(gather(same)) == 2
    assert repeated(gather(same)) == 1


def test_contradictions_are_named() -> None:
    with pytest.raises(DataError, match="annotator 'ann' ranked the same images more than once"):
        gather([ranking("one", (1, 2), "ann"), ranking("one", (2, 1), "ann")])
    with pytest.raises(DataError, match="2 rankings of the same images without an annotator"):
        gather([ranking("one", (1, 2)), ranking("one", (2, 1))])
    with pytest.raises(DataError, match="no rankings"):
        gather([])


def test_the_same_image_twice_in_a_group_is_data_too() -> None:
    image, other = ImageRef(Path("a")), ImageRef(Path("b"))
    one = Ranking("p", (image, image, other), (1, 2, 3), "x")
    two = Ranking("p", (other, image, image), (1, 2, 3), "y")
    (instance,) = gather([one, two])
    assert instance.annotations[1].ranks == (2, 3, 1)


def test_missing_images_are_left_out_and_counted(tmp_path: Path) -> None:
    instances = gather(
        [
            ranking("one", (3, 1, 2), folder=tmp_path),
            ranking("one", (1, 2, 3), "a", folder=tmp_path),
            ranking("two", (1, 2), folder=tmp_path),
        ]
    )
    for name in ("one-0.png", "one-2.png", "two-0.png"):
        (tmp_path / name).write_bytes(b"x")
    kept, gone, dropped = without_missing(instances)
    assert (
        [image.path.name for image in gone]
        == ["one-1.png", "two-1.png"]
        == [i.path.name for i in missing_images(instances)]
    )
    assert dropped == 1
    assert [i.consensus.ranks for i in kept] == [(3, 2)]
    assert [i.annotations[0].ranks for i in kept] == [(1, 3)]

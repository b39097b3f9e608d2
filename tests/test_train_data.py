"""Examples, batches, shards: what is trained on, in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from humanpref.data.formats import write_rankings
from humanpref.errors import DataError, TrainingError, UnknownNameError
from humanpref.records import Ranking
from humanpref.training.batches import Place, TableData, planned
from humanpref.training.config import PRESETS, TrainConfig, differences, from_json, get_preset, to_json, with_options
from humanpref.training.examples import make_examples
from humanpref.training.run import pixel_inputs, read_examples
from humanpref.training.shards import ShardData, write_shards
from tests.training import tiny, world


def test_the_recipe_is_the_papers() -> None:
    c = PRESETS["hps-v2"]
    assert (c.arch, c.base, c.vision_free, c.text_free) == ("ViT-H-14", "clipscore", 20, 11)
    assert (c.learning_rate, c.weight_decay, c.warmup, c.schedule, c.batch) == (3.3e-6, 0.35, 500, "cosine", 16)
    assert (c.beta1, c.beta2, c.epsilon, c.loss, c.unit, c.max_logit_scale) == (0.9, 0.98, 1e-6, "pair", "pairs", 100)


def test_the_layers_of_the_recipe_are_those_that_the_official_code_frees() -> None:
    """ViT-H/14's towers, counted on the meta device: 19 blocks, the last norm and the projection; 11 blocks of text."""
    import open_clip

    from humanpref.training.model import free_layers

    with torch.device("meta"):
        clip = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
    free_layers(clip, 20, 11)
    free = {name for name, p in clip.named_parameters() if p.requires_grad}
    blocks = {int(n.split(".")[3]) for n in free if n.startswith("visual.transformer.resblocks")}
    assert blocks == set(range(13, 32))
    assert {"visual.proj", "visual.ln_post.weight", "logit_scale"} <= free
    assert not {"visual.conv1.weight", "visual.ln_pre.weight", "token_embedding.weight"} & free
    text = {int(n.split(".")[2]) for n in free if n.startswith("transformer.resblocks")}
    assert text == set(range(13, 24))
    assert {"ln_final.weight", "text_projection"} <= free


def test_configurations_go_to_json_and_back_and_refuse_what_they_do_not_know() -> None:
    for preset in PRESETS.values():
        assert from_json(to_json(preset), TrainConfig) == preset
    assert differences(TrainConfig(), TrainConfig(seed=1, workers=9)) == ["seed 0 -> 1"]
    with pytest.raises(UnknownNameError, match="no training option is called 'lr'; choose from: model"):
        with_options(TrainConfig(), {"lr": 1})
    with pytest.raises(UnknownNameError, match="no training preset is called 'hps'"):
        get_preset("hps")
    with pytest.raises(TrainingError, match="steps must be a whole number, got 'many'"):
        with_options(TrainConfig(), {"steps": "many"})
    with pytest.raises(TrainingError, match="whole rankings"):
        with_options(TrainConfig(), {"loss": "listwise"})
    with pytest.raises(UnknownNameError, match="no loss is called 'hinge'; choose from: pair"):
        with_options(TrainConfig(), {"loss": "hinge"})
    with pytest.raises(TrainingError, match="learning_rate must not be negative"):
        with_options(TrainConfig(), {"learning_rate": "-1"})
    with pytest.raises(TrainingError, match="not the configuration"):
        from_json('{"steps": 1, "epochs": 2}', TrainConfig)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(0, 5))
def test_processes_and_accumulation_share_one_stream(
    number: int, batch: int, accumulate: int, world_: int, step: int
) -> None:
    """A step takes the same examples however they are spread, and every epoch takes each example once."""
    config = TrainConfig(batch=batch, accumulate=accumulate, steps=10, seed=3)
    spread = [
        planned(number, step * accumulate + part, config, Place(rank, world_))
        for part in range(accumulate)
        for rank in range(world_)
    ]
    whole = planned(number, step, TrainConfig(batch=batch * accumulate * world_, steps=10, seed=3), Place())
    assert sorted(i for part in spread for i in part) == sorted(whole)
    first = [i for s in range(number) for i in planned(number, s, TrainConfig(batch=1, steps=10, seed=3), Place())]
    assert sorted(first) == list(range(number))


def test_pairs_rankings_and_groups(tmp_path: Path) -> None:
    rankings = world(tmp_path, 3, annotators=2)
    for unit, examples, groups in (("pairs", 36, 3), ("rankings", 6, 3), ("groups", 6, 3)):
        table, counts = make_examples(rankings, tiny(tmp_path, unit=unit))
        assert (len(table), counts.pairs, counts.images, len(table.groups())) == (examples, 36, 12, groups)
    first = table[0]
    assert first.images == tuple(i.path for i in rankings[0].images)
    assert first.preferred == tuple(p.first_preferred for p in rankings[0].pairs())


def test_the_consensus_is_not_counted_beside_its_annotators(tmp_path: Path) -> None:
    people = world(tmp_path, 2, annotators=3)
    consensus = [Ranking(r.prompt, r.images, r.ranks) for r in people[::3]]
    assert len(make_examples([*people, *consensus], tiny(tmp_path, unit="rankings"))[0]) == 6
    assert len(make_examples(consensus, tiny(tmp_path, unit="rankings"))[0]) == 2


def test_shares_are_of_the_annotators(tmp_path: Path) -> None:
    images = world(tmp_path, 1)[0].images
    votes = [
        Ranking("p", images, ranks, who)
        for who, ranks in (("a", (1, 2, 3, 4)), ("b", (2, 1, 3, 4)), ("c", (1, 2, 4, 3)))
    ]
    table, _ = make_examples(votes, tiny(tmp_path, unit="rankings", labels="share"))
    assert len(table) == 1
    assert table[0].preferred == pytest.approx((2 / 3, 1, 1, 1, 1, 2 / 3))


def test_labels_that_do_not_add_up_to_one_are_errors_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    row = '{"prompt": "p", "file_path": ["a.png", "b.png"], "human_preference": %s}'
    (tmp_path / "train.json").write_text(
        "[" + ",".join(row % label for label in ("[1, 0]", "[0.7, 0.7]", "[0.4, 0.6]")) + "]"
    )
    with pytest.raises(DataError, match=r"instance 1: human_preference must add up to 1, got 0.7 and 0.7"):
        read_examples(tmp_path / "train.json", None, tiny(tmp_path))
    table, counts = read_examples(tmp_path / "train.json", None, tiny(tmp_path, bad_images="skip"))
    assert (len(table), counts.bad_rows) == (2, 1)
    assert table[1].preferred == (0.4,)


@pytest.mark.parametrize("kind", ["rankings", "rankings-parquet"])
def test_files_give_the_examples_of_the_rankings(tmp_path: Path, kind: str) -> None:
    rankings = world(tmp_path / "i", 4, annotators=2)
    path = tmp_path / ("data.parquet" if "parquet" in kind else "data.jsonl")
    write_rankings(rankings, path, kind, image_root=tmp_path / "i")
    table, _ = read_examples(path, tmp_path / "i", tiny(tmp_path))
    assert table.fingerprint() == make_examples(rankings, tiny(tmp_path))[0].fingerprint()


def test_an_image_of_several_examples_is_prepared_once(tmp_path: Path) -> None:
    from humanpref.training.model import build

    config = tiny(tmp_path, unit="groups", batch=2)
    table, _ = make_examples(world(tmp_path / "i", 4, annotators=3), config)
    inputs = pixel_inputs(build(config), config)
    data = TableData(table, "", table.groups())
    batch = next(data.batches(inputs, config, Place(), 0))
    assert len(batch.images) == 8
    assert len(batch.image_of) == 24
    assert len(batch.first) == 2 * 3 * 6
    assert len(batch.prompts) == 2


ALONE = Place()


def stream(data: ShardData, config: TrainConfig, start: int, count: int, place: Place = ALONE) -> list[tuple[str, ...]]:
    from humanpref.training.model import build

    batches = data.batches(pixel_inputs(build(config), config), config, place, start)
    return [next(batches).texts for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_shuffled_alike_and_go_on_in_the_middle(tmp_path: Path, workers: int) -> None:
    assert write_shards(world(tmp_path / "i", 24), tmp_path / "s", per_shard=4) == 24
    data = ShardData.open(tmp_path / "s")
    config = tiny(tmp_path, unit="rankings", batch=2, workers=workers, shuffle_buffer=5, steps=30)
    whole = stream(data, config, 0, 15)
    assert whole == stream(data, config, 0, 15)
    for start in (1, 4, 7):
        assert stream(data, config, start, 8) == whole[start : start + 8]
    epoch = [text for texts in whole[:12] for text in texts]
    assert len(set(epoch)) == 24, "an epoch has every ranking once"
    assert epoch != sorted(epoch)
    assert stream(data, tiny(tmp_path, unit="rankings", batch=2, shuffle_buffer=5, seed=1), 0, 12) != whole[:12]


def test_processes_and_workers_have_shards_of_their_own(tmp_path: Path) -> None:
    write_shards(world(tmp_path / "i", 16), tmp_path / "s", per_shard=2)
    data = ShardData.open(tmp_path / "s")
    config = tiny(tmp_path, unit="rankings", batch=1, shuffle_buffer=4)
    shares = [{t for texts in stream(data, config, 0, 8, Place(rank, 2)) for t in texts} for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 8
    assert not shares[0] & shares[1]
    with pytest.raises(TrainingError, match="8 shards for 12 readers"):
        stream(data, tiny(tmp_path, unit="rankings", workers=6), 0, 1, Place(0, 2))


def test_shards_hold_what_the_rankings_say(tmp_path: Path) -> None:
    rankings = world(tmp_path / "i", 3, annotators=2)
    write_shards(rankings, tmp_path / "s")
    data = ShardData.open(tmp_path / "s")
    config = tiny(tmp_path, unit="rankings", batch=6, shuffle_buffer=0)
    from humanpref.training.model import build

    inputs = pixel_inputs(build(config), config)
    batch = next(data.batches(inputs, config, Place(), 0))
    table, _ = make_examples(rankings, config)
    assert batch.preferred.tolist() == [p for i in range(6) for p in table[i].preferred]
    assert torch.equal(batch.images[0], inputs.image(rankings[0].images[0].path))
    assert data.counts(config).pairs == 36
    (tmp_path / "s" / "shard-000000.tar").unlink()
    with pytest.raises(DataError, match="1 of 1 shards are missing"):
        ShardData.open(tmp_path / "s")

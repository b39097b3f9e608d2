"""Datasets that can be fetched: a table. Where they are, at which commit, and what is known of their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Dataset:
    """Files of one dataset repository on the Hub.

    `files` are patterns (as in fnmatch) of paths at commit `revision`; `strip` is the folder that is left off; `sha256`
    is what is known besides the checksums that the Hub itself gives at that commit. Archives are unpacked, each into
    a folder named like it.
    """

    name: str
    summary: str
    licence: str
    repo: str
    revision: str
    files: tuple[str, ...]
    strip: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="hpdv2-test",
            summary="HPD v2 test set: 400 prompts, 3,700 images, 10 annotators each",
            licence="Apache-2.0",
            repo="zhwang/HPDv2",
            revision="b9517430f34b1080d4f741118d2a440155a165cd",
            files=("test.json", "test.tar.gz"),
            sha256={"test.tar.gz": "76f32e2e752ae1518e142cc3e9be3fe70a79bb556f96851c932fc72e18040217"},
        ),
        Dataset(
            name="imagereward-test",
            summary="ImageReward test set: 466 prompts, with their images",
            licence="Apache-2.0",
            repo="THUDM/ImageRewardDB",
            revision="419d87a27cef2646f1a922678f2efc2ed19505e4",
            files=("metadata-test.parquet", "images/test/*.zip"),
        ),
        Dataset(
            name="pickapic-test",
            summary="Pick-a-Pic v2 test set with one pair per prompt (test_unique): 500 pairs",
            licence="see its card",
            repo="yuvalkirstain/pickapic_v2",
            revision="f46106159f81d7babb0a61141897bbdee63328d1",
            files=("data/test_unique-*.parquet",),
            strip="data/",
        ),
        Dataset(
            name="hps-benchmark-prompts",
            summary="HPS v2 benchmark: the 3,200 prompts in four styles, and DrawBench's 200, without images",
            licence="Apache-2.0",
            repo="zhwang/HPDv2",
            revision="b9517430f34b1080d4f741118d2a440155a165cd",
            files=("benchmark/*.json",),
            strip="benchmark/",
        ),
        Dataset(
            name="hps-benchmark",
            summary="HPS v2 benchmark: 3,200 prompts in four styles, DrawBench, and the published models' images",
            licence="Apache-2.0",
            repo="zhwang/HPDv2",
            revision="b9517430f34b1080d4f741118d2a440155a165cd",
            files=("benchmark/*.json", "benchmark/benchmark_imgs/*.tar.gz", "benchmark/drawbench/*.tar.gz"),
            strip="benchmark/",
            sha256={
                "benchmark/benchmark_imgs/SDXL-refiner-0.9.tar.gz": (
                    "32fcbd7ac5b4381a6ce868f1db7d56fd0d2d15a61dd23172fc298f1931bd624b"
                )
            },
        ),
    )
}

"""Memory does not grow with the input: neither with its rows nor with the size of a group of rows or a tar file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import pyarrow as pa
import pyarrow.parquet as pq

from tests.batching import tar
from tests.generating import environment

CODE = """
import sys
from pathlib import Path
from humanpref.batch.run import batch
from humanpref.batch.score import Model
report = batch([sys.argv[1]], sys.argv[2], [Model("lite")], part_rows=512)
assert report.errors == {"unreadable-image": report.rows}, report
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(report.rows, int(status["VmHWM"].split()[0]) // 1024)
"""
ROW = 200_000


def peak_mib(path: Path, out: Path, rows: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, path, out], capture_output=True, text=True, check=True, env=environment()
    )
    found, peak = map(int, done.stdout.split())
    assert found == rows
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "tar", "tar.gz"])
def test_memory_is_bounded(tmp_path: Path, kind: str) -> None:
    """Rows of noise that is no image, 200 MB against 20: reading and refusing them is all that happens."""
    peaks = []
    for rows in (100, 1000):
        path = tmp_path / f"{rows}.{kind}"
        contents = (os.urandom(ROW) for _ in range(rows))
        if kind == "parquet":  # one group of rows, whatever their number
            schema = pa.schema([("image", pa.binary()), ("prompt", pa.string())])
            table = pa.table({"image": list(contents), "prompt": ["p"] * rows}, schema)
            # a page is read whole; pyarrow writes 1,024 values into one unless told otherwise
            pq.write_table(table, path, row_group_size=rows, compression="none", write_batch_size=16)
            del table
        else:
            tar(path, ((str(n), {"jpg": content, "txt": b"p"}) for n, content in enumerate(contents)))
        peaks.append(peak_mib(path, tmp_path / f"out-{rows}", rows))
        path.unlink()
    assert peaks[1] - peaks[0] < 60, f"peaks of {peaks} MiB for {100 * ROW / 1e6:.0f} and {1000 * ROW / 1e6:.0f} MB"
    print(f"{kind}: peaks of {peaks} MiB")

"""Scoring whole datasets: shards of any kind in, Parquet parts of scores out, resumable, exactly once for each row."""

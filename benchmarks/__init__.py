"""Benchmarks: `python -m benchmarks train|sampling|scale|precision --help`. See docs/performance.md."""

"""`make bench`: every benchmark of this folder, one after the other."""

from __future__ import annotations

from benchmarks import bench_convert


def main() -> None:
    """Run them all."""
    bench_convert.main()


if __name__ == "__main__":
    main()

"""`make bench`: the benchmarks of this folder, one after the other.

python -m benchmarks.run [convert] [eval] [augment] [train] [options that they know, such as --repeat 3]
"""

from __future__ import annotations

import sys
from itertools import takewhile

from benchmarks import bench_augment, bench_convert, bench_eval, bench_train

BENCHMARKS = {
    "convert": bench_convert.main,
    "eval": bench_eval.main,
    "augment": bench_augment.main,
    "train": bench_train.main,
}


def main() -> None:
    """Run those that are named first, or all; the other arguments go to each of them."""
    names = list(takewhile(BENCHMARKS.__contains__, sys.argv[1:]))
    for name in names or BENCHMARKS:
        BENCHMARKS[name](sys.argv[1 + len(names) :])


if __name__ == "__main__":
    main()

from typing_extensions import Buffer

def extents(keypoints: Buffer, rows: Buffer, low: Buffer, high: Buffer, k: int) -> None: ...
def near(first: Buffer, counts: Buffer, dt_box: Buffer, gt_box: Buffer, d: Buffer, g: Buffer) -> int: ...
def terms(
    keypoints: Buffer,
    rows: Buffer,
    people: Buffer,
    g: Buffer,
    joints: Buffer,
    variances: Buffer,
    areas: Buffer,
    out: Buffer,
    k: int,
    n: int,
) -> None: ...
def box_terms(
    keypoints: Buffer, rows: Buffer, boxes: Buffer, g: Buffer, variances: Buffer, areas: Buffer, out: Buffer, k: int
) -> None: ...
def greedy(
    dt: Buffer, gt: Buffer, oks: Buffer, ignored: Buffer, crowd: Buffer, limits: Buffer, matched: Buffer, taken: Buffer
) -> None: ...

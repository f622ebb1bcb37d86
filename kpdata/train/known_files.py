"""Published weight files: what a file's bytes or name tell about the network in it. Needs no torch.

The same keys and shapes come from people who fed BGR and from people who fed RGB, with targets drawn in three ways:
a state dict does not say. Sources: names and hashes of mmpose, `configs/*/topdown_heatmap/*/*.yml` and `*.md` of
open-mmlab/mmpose (0.x to 1.3.2); target, sigma and blur, the configs of the same names; official pose files, the model
zoo in the README of leoxiaobin/deep-high-resolution-net.pytorch (`COLOR_RGB` in `experiments/`); torchvision's,
`torchvision/models/resnet.py`; timm's, `timm/models/hrnet.py` (release v0.1-hrnet). Where a name carries eight hex
digits, they are the beginning of the file's sha256: publishers name files so.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kpdata.codec import HeatmapCodec, Target
from kpdata.errors import KpdataError
from kpdata.skeleton import Skeleton, from_category, load
from kpdata.train.spec import Colour

Origin = Literal["kpdata", "official", "mmpose", "imagenet"]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A published file. sha256: its beginning in hex, "" where nobody published it. skeleton, codec: None of ImageNet
    files, whose head names no keypoints. licence: of the project that publishes the file; training data have their own.
    """

    name: str
    sha256: str
    origin: Origin
    model: str
    skeleton: str | None
    codec: HeatmapCodec | None
    colour: Colour
    licence: str


def _codec(size: Size, target: Target, kernel: int | None = None) -> HeatmapCodec:
    """All of these files: sigma 2, and 3 at a height of 384."""
    return HeatmapCodec(size, sigma=3.0 if size[1] == 384 else 2.0, target=target, kernel=kernel)


def _mmpose(model: str, skeleton: str, target: Target, names: str, kernel: int | None = None) -> list[KnownFile]:
    """Rows of one model, skeleton and target: mmpose's names tell height x width and the hash."""
    rows = []
    for name in names.split():
        height, width = re.findall(r"(\d{3})x(\d{3})", name)[0]
        digest = re.findall(r"-([0-9a-f]{8})_\d{8}$", name)[0]
        codec = _codec((int(width), int(height)), target, kernel)
        rows.append(KnownFile(f"{name}.pth", digest, "mmpose", model, skeleton, codec, "rgb", "Apache-2.0"))
    return rows


def _official(model: str, skeleton: str, sizes: str, colour: Colour, ending: str = ".pth") -> list[KnownFile]:
    """Rows of one model and skeleton; sizes are height x width, as in the names."""
    rows = []
    for size in sizes.split():
        height, width = (int(side) for side in size.split("x"))
        stem = model if model.startswith("pose") else f"pose_{model}"
        name, codec = f"{stem}_{size}{ending}", _codec((width, height), "gaussian")
        digest = _OFFICIAL_HASHES.get(name, "")
        rows.append(KnownFile(name, digest, "official", model, skeleton, codec, colour, "MIT"))
    return rows


def _imagenet(model: str, licence: str, names: str) -> list[KnownFile]:
    rows = []
    for name in names.split():
        digest = re.findall(r"-([0-9a-f]{8})$", name)[0]
        rows.append(KnownFile(f"{name}.pth", digest, "imagenet", model, None, None, "rgb", licence))
    return rows


# As hashed by LibreYOLO (docs/provenance/hrnet.md) from the official zoo's files.
_OFFICIAL_HASHES = {
    "pose_hrnet_w32_256x192.pth": "19bc083708bb8d873211e50d85d56344c10290c6e8b564c813fdde09645c4c1c",
    "pose_hrnet_w48_384x288.pth": "95e0fec3194826d5e3f806ea89be68bbb84517b114c3a32b3058c56610b5ef61",
}
_R = "pose_resnet_"
KNOWN_FILES: tuple[KnownFile, ...] = (
    *_official("hrnet_w32", "coco_17", "256x192 384x288", "rgb"),
    *_official("hrnet_w48", "coco_17", "256x192 384x288", "rgb"),
    *_official("hrnet_w32", "mpii_16", "256x256", "rgb"),
    *_official("hrnet_w48", "mpii_16", "256x256", "rgb"),
    *[
        row
        for depth in ("50", "101", "152")
        for skeleton, sizes in (("coco_17", "256x192 384x288"), ("mpii_16", "256x256 384x384"))
        for ending in (".pth", ".pth.tar")
        for row in _official(_R + depth, skeleton, sizes, "bgr", ending)
    ],
    *_mmpose("hrnet_w32", "coco_17", "gaussian", """
        td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909 hrnet_w32_coco_256x192-c78dce93_20200708
        td-hm_hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909 hrnet_w32_coco_384x288-d9f0d786_20200708
        td-hm_hrnet-w32_fp16-8xb64-210e_coco-256x192-f1e84e3b_20220914
        hrnet_w32_coco_256x192_fp16_dynamic-290efc2e_20210430 hrnet_w32_coco_256x192_coarsedropout-0f16a0ce_20210320
        hrnet_w32_coco_256x192_gridmask-868180df_20210320 hrnet_w32_coco_256x192_photometric-308cf591_20210320
        td-hm_hrnet-w32_8xb64-210e_humanart-256x192-0773ef0b_20230614"""),
    *_mmpose("hrnet_w32", "coco_17", "dark", """
        td-hm_hrnet-w32_dark-8xb64-210e_coco-256x192-0e00bf12_20220914 hrnet_w32_coco_256x192_dark-07f147eb_20200812
        td-hm_hrnet-w32_dark-8xb64-210e_coco-384x288-9bab4c9b_20220917"""),
    *_mmpose("hrnet_w32", "coco_17", "dark", """
        hrnet_w32_coco_384x288_dark-307dafc2_20210203 hrnet_w32_coco_384x288_dark-459422a4_20200812""", 17),
    *_mmpose("hrnet_w32", "coco_17", "udp", """
        td-hm_hrnet-w32_udp-8xb64-210e_coco-256x192-73ede547_20220914 hrnet_w32_coco_256x192_udp-aba0be42_20210220
        td-hm_hrnet-w32_udp-8xb64-210e_coco-384x288-9a3f7c85_20220914"""),
    *_mmpose("hrnet_w32", "coco_17", "udp", "hrnet_w32_coco_384x288_udp-e97c1a0f_20210223", 17),
    *_mmpose("hrnet_w48", "coco_17", "gaussian", """
        td-hm_hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913 hrnet_w48_coco_256x192-b9e0b3ab_20200708
        td-hm_hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915 hrnet_w48_coco_384x288-314c8528_20200708
        td-hm_hrnet-w48_8xb32-210e_humanart-256x192-05178983_20230614"""),
    *_mmpose("hrnet_w48", "coco_17", "dark", """
        td-hm_hrnet-w48_dark-8xb32-210e_coco-256x192-e1ebdd6f_20220913 hrnet_w48_coco_256x192_dark-8cba3197_20200812
        td-hm_hrnet-w48_dark-8xb32-210e_coco-384x288-39c3c381_20220916"""),
    *_mmpose("hrnet_w48", "coco_17", "dark", """
        hrnet_w48_coco_384x288_dark-741844ba_20200812 hrnet_w48_coco_384x288_dark-e881a4b6_20210203""", 17),
    *_mmpose("hrnet_w48", "coco_17", "udp", """
        td-hm_hrnet-w48_udp-8xb32-210e_coco-256x192-3feaef8f_20220913 hrnet_w48_coco_256x192_udp-2554c524_20210223
        td-hm_hrnet-w48_udp-8xb32-210e_coco-384x288-70d7ab01_20220913"""),
    *_mmpose("hrnet_w48", "coco_17", "udp", "hrnet_w48_coco_384x288_udp-0f89c63e_20210223", 17),
    *_mmpose(f"{_R}50", "coco_17", "gaussian", """
        td-hm_res50_8xb64-210e_coco-256x192-04af38ce_20220923 res50_coco_256x192-ec54d7f3_20200709
        td-hm_res50_8xb64-210e_coco-384x288-7b8db90e_20220923 res50_coco_384x288-e6f795e9_20200709
        td-hm_res50_fp16-8xb64-210e_coco-256x192-463da051_20220927 res50_coco_256x192_fp16_dynamic-6edb79f3_20210430
        """),
    *_mmpose(f"{_R}50", "coco_17", "dark", """
        td-hm_res50_dark-8xb64-210e_coco-256x192-c129dcb6_20220926 res50_coco_256x192_dark-43379d20_20200709
        td-hm_res50_dark-8xb64-210e_coco-384x288-8b90b538_20220926"""),
    *_mmpose(f"{_R}50", "coco_17", "dark", "res50_coco_384x288_dark-33d3e5e5_20210203", 17),
    *_mmpose(f"{_R}101", "coco_17", "gaussian", """
        td-hm_res101_8xb64-210e_coco-256x192-065d3625_20220926 res101_coco_256x192-6e6babf0_20200708
        res101_coco_384x288-8c71bdc9_20200709"""),
    *_mmpose(f"{_R}101", "coco_17", "dark", """
        td-hm_res101_dark-8xb64-210e_coco-256x192-528ec248_20220926 res101_coco_256x192_dark-64d433e6_20200812
        td-hm_res101_dark-8xb64-210e_coco-384x288-487d40a4_20220926"""),
    *_mmpose(f"{_R}101", "coco_17", "dark", "res101_coco_384x288_dark-cb45c88d_20210203", 17),
    *_mmpose(f"{_R}152", "coco_17", "gaussian", """
        td-hm_res152_8xb32-210e_coco-256x192-0345f330_20220928 res152_coco_256x192-f6e307c2_20200709
        td-hm_res152_8xb32-210e_coco-384x288-7fbb906f_20220927 res152_coco_384x288-3860d4c9_20200709"""),
    *_mmpose(f"{_R}152", "coco_17", "dark", """
        td-hm_res152_dark-8xb32-210e_coco-256x192-f754df5f_20221031 res152_coco_256x192_dark-ab4840d5_20200812"""),
    *_mmpose(f"{_R}152", "coco_17", "dark", """
        td-hm_res152_dark-8xb32-210e_coco-384x288-329f8454_20221031 res152_coco_384x288_dark-d3b8ebd7_20210203""", 17),
    *_mmpose("hrnet_w32", "mpii_16", "gaussian", "hrnet_w32_mpii_256x256-6c4f923f_20200812"),
    *_mmpose("hrnet_w48", "mpii_16", "gaussian", "hrnet_w48_mpii_256x256-92cab7bd_20200812"),
    *_mmpose("hrnet_w32", "mpii_16", "dark", "hrnet_w32_mpii_256x256_dark-f1601c5b_20200927"),
    *_mmpose("hrnet_w48", "mpii_16", "dark", "hrnet_w48_mpii_256x256_dark-0decd39f_20200927"),
    *_mmpose(f"{_R}50", "mpii_16", "gaussian", "res50_mpii_256x256-418ffc88_20200812"),
    *_mmpose(f"{_R}101", "mpii_16", "gaussian", "res101_mpii_256x256-416f5d71_20200812"),
    *_mmpose(f"{_R}152", "mpii_16", "gaussian", "res152_mpii_256x256-3ecba29d_20200812"),
    *_mmpose("hrnet_w32", "crowdpose_14", "gaussian", "hrnet_w32_crowdpose_256x192-960be101_20201227"),
    *_mmpose(f"{_R}50", "crowdpose_14", "gaussian", "res50_crowdpose_256x192-c6a526b6_20201227"),
    *_mmpose(f"{_R}101", "crowdpose_14", "gaussian", """
        res101_crowdpose_256x192-8f5870f4_20201227 res101_crowdpose_320x256-c88c512a_20201227"""),
    *_mmpose(f"{_R}152", "crowdpose_14", "gaussian", "res152_crowdpose_256x192-dbd49aba_20201227"),
    *_mmpose("hrnet_w32", "aic_14", "gaussian", "hrnet_w32_aic_256x192-30a4e465_20200826"),
    *_mmpose(f"{_R}101", "aic_14", "gaussian", "res101_aic_256x192-79b35445_20200826"),
    *_mmpose("hrnet_w32", "posetrack18_17", "gaussian", """
        hrnet_w32_posetrack18_256x192-1ee951c4_20201028 hrnet_w32_posetrack18_384x288-806f00a3_20211130"""),
    *_mmpose("hrnet_w48", "posetrack18_17", "gaussian", """
        hrnet_w48_posetrack18_256x192-b5d9b3f1_20211130 hrnet_w48_posetrack18_384x288-5fd6d3ff_20211130"""),
    *_mmpose("hrnet_w32", "coco_wholebody_133", "gaussian", """
        hrnet_w32_coco_wholebody_256x192-853765cd_20200918 hrnet_w32_coco_wholebody_384x288-78cacac3_20200922"""),
    *_mmpose("hrnet_w48", "coco_wholebody_133", "gaussian", """
        hrnet_w48_coco_wholebody_256x192-643e18cb_20200922 hrnet_w48_coco_wholebody_384x288-6e061c6a_20200922"""),
    *_mmpose("hrnet_w32", "coco_wholebody_133", "dark", "hrnet_w32_coco_wholebody_256x192_dark-469327ef_20200922"),
    *_mmpose("hrnet_w48", "coco_wholebody_133", "dark", "hrnet_w48_coco_wholebody_384x288_dark-f5726563_20200918", 17),
    *_imagenet("hrnet_w32", "MIT", "hrnet_w32-36af842e hrnetv2_w32-90d8c5fb"),
    *_imagenet("hrnet_w48", "MIT", "hrnet_w48-8ef0771d hrnetv2_w48-abd2e6ab"),
    *_imagenet(f"{_R}50", "BSD-3-Clause", "resnet50-19c8e357 resnet50-0676ba61 resnet50-11ad3fa6"),
    *_imagenet(f"{_R}101", "BSD-3-Clause", "resnet101-5d3b4d8f resnet101-63fe2227 resnet101-cd907fc2"),
    *_imagenet(f"{_R}152", "BSD-3-Clause", "resnet152-b121ed2d resnet152-394f9c45 resnet152-f82ba261"),
)  # fmt: skip
"""Every published file of our networks whose name or hash is known; a .pth.tar is Simple Baseline's older zoo."""


def identify(path: Path) -> tuple[KnownFile | None, str, tuple[str, ...]]:
    """The published file that a file is, the evidence for it, and warnings. None: no published one.

    Its bytes count first (sha256), then its name. Where a known name has other bytes than published, the warning says
    so: a damaged download, or somebody saved it anew.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for known in KNOWN_FILES:
        if known.sha256 and digest.startswith(known.sha256):
            return known, f"{known.name} by its sha256 {digest[:8]}", ()
    for known in KNOWN_FILES:
        if known.name.lower() == path.name.lower():
            evidence = f"{known.name} by its name"
            if not known.sha256:
                return known, evidence, ()
            other = f"sha256 {digest[:8]}, but {known.name} was published with {known.sha256[:8]}"
            return known, evidence, (f"{other}: damaged, or saved anew",)
    return None, "", ()


def mmpose_skeleton(document: Mapping[str, Any]) -> Skeleton | None:
    """The skeleton that a checkpoint of mmpose 1.x names (`meta.dataset_meta.keypoint_id2name`); None: it does not."""
    facts = _within(_within(document, "meta"), "dataset_meta")
    named: Mapping[Any, Any] = _within(facts, "keypoint_id2name")
    if not named or sorted(named) != list(range(len(named))):
        return None
    category = {"name": facts.get("dataset_name"), "keypoints": [named[index] for index in range(len(named))]}
    try:
        return from_category(category)
    except KpdataError:
        return None


def mmpose_codec(document: Mapping[str, Any]) -> HeatmapCodec | None:
    """The codec of the config in a checkpoint of mmpose 1.x (`meta.cfg`, Python text), if it is one of ours."""
    text = _within(document, "meta").get("cfg")
    for values in _assigned(text, "codec") if isinstance(text, str) else []:
        kind, size, map_size = values.get("type"), values.get("input_size"), values.get("heatmap_size")
        if kind not in ("MSRAHeatmap", "UDPHeatmap") or values.get("heatmap_type", "gaussian") != "gaussian":
            return None
        target: Target = "udp" if kind == "UDPHeatmap" else "dark" if values.get("unbiased") else "gaussian"
        kernel = values.get("blur_kernel_size") if target != "gaussian" else None
        try:
            codec = HeatmapCodec(tuple(size or ()), sigma=float(values["sigma"]), target=target, kernel=kernel)
        except (KpdataError, TypeError, KeyError, ValueError):
            return None
        return codec if codec.heatmap_size == tuple(map_size or ()) else None
    return None


def by_count(keypoints: int) -> tuple[Skeleton | None, Size]:
    """What a number of keypoints alone suggests: a skeleton where only one is usual, and (width, height) px."""
    usual = {17: "coco_17", 16: "mpii_16", 133: "coco_wholebody_133", 136: "halpe_136", 26: "halpe_26"}
    return (load(usual[keypoints]) if keypoints in usual else None), (256, 256) if keypoints == 16 else (192, 256)


def _within(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _assigned(text: str, name: str) -> list[dict[str, Any]]:
    """The keywords of every `name = dict(...)` at the top of a Python text, those that are literals; nothing is run."""
    try:
        nodes = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = []
    for node in nodes:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        if [target.id for target in node.targets if isinstance(target, ast.Name)] == [name]:
            found.append({key.arg: _literal(key.value) for key in node.value.keywords if key.arg})
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None

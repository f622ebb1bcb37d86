"""`kpdata eval`: the numbers of pycocotools, where the ground truth is found, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kpdata.skeleton import load

NAMES = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]


@pytest.fixture(scope="session")
def judge(made):
    """pycocotools' evaluation of the made predictions, and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(made / "coco.json"))
        judge = COCOeval(truth, truth.loadRes(str(made / "predictions.json")), "keypoints")
        judge.evaluate()
        judge.accumulate()
        with contextlib.redirect_stdout(printed):
            judge.summarize()
    return judge, printed.getvalue()


def test_json_arrays_and_lines_are_those_of_pycocotools(run, made, judge, tmp_path):
    """Ten numbers and three arrays to the last bit, and the printed lines to the last blank."""
    arrays = tmp_path / "out.npz"
    arguments = ("eval", made / "predictions.json", "--gt", made / "coco.json")
    report = json.loads(run(*arguments, "--json", "--arrays", arrays).out)
    assert list(report["stats"].items()) == list(zip(NAMES, judge[0].stats.tolist(), strict=True))
    assert report["metric"] == "COCO OKS AP/AR"
    assert report["sigmas"] == {"coco_17": judge[0].params.kpt_oks_sigmas.tolist()}
    assert report["files"] == {"predictions": str(made / "predictions.json"), "gt": str(made / "coco.json")}
    assert report["counts"]["images"] == 6
    with np.load(arrays) as saved:
        assert sorted(saved) == ["precision", "recall", "scores"]
        for name in saved:
            np.testing.assert_array_equal(saved[name], judge[0].eval[name])
    assert judge[1] in run(*arguments).out


def test_ground_truth_from_the_note(run, made, judge):
    """`kpdata synth` leaves a note beside the predictions, so that no option is needed."""
    report = json.loads(run("eval", made / "predictions.json", "--json").out)
    assert list(report["stats"].values()) == judge[0].stats.tolist()


def test_ground_truth_from_the_nearest_kpdata_toml(run, made, monkeypatch, tmp_path):
    """The file of the nearest folder above wins over one further up and over the note; the option wins over all."""
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    gone = tmp_path / "gone.json"
    (tmp_path / "kpdata.toml").write_text(f"gt = {json.dumps(str(gone))}")
    monkeypatch.chdir(here)
    done = run("eval", made / "predictions.json")
    assert done.code == 1
    assert "gone.json: there is no such file" in done.err
    (tmp_path / "a" / "kpdata.toml").write_text('gt = "truth.json"', encoding="utf-8")
    (tmp_path / "a" / "truth.json").write_bytes((made / "coco.json").read_bytes())
    report = json.loads(run("eval", made / "predictions.json", "--json").out)
    assert report["files"]["gt"] == str(tmp_path / "a" / "truth.json")
    report = json.loads(run("eval", made / "predictions.json", "--gt", made / "people.kp", "--json").out)
    assert report["files"]["gt"] == str(made / "people.kp")


@pytest.mark.parametrize(("name", "text", "words"), [
    ("kpdata.toml", "gt = ", "kpdata.toml: not TOML"),
    ("kpdata.toml", "gt = 3", "kpdata.toml: 'gt' is 3, expected a path"),
    ("p.json.note.json", "{", "p.json.note.json: not JSON"),
    ("p.json.note.json", '{"gt": 3}', "p.json.note.json: 'gt' is 3, expected a path"),
    ("p.json.note.json", "[]", "p.json.note.json: 'gt' is None, expected a path"),
])  # fmt: skip
def test_damaged_notes_are_named(run, made, monkeypatch, tmp_path, name, text, words):
    """Neither file is skipped in silence when it is damaged."""
    (tmp_path / "p.json").write_bytes((made / "predictions.json").read_bytes())
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    done = run("eval", "p.json")
    assert done.code == 1
    assert words in done.err


def test_no_ground_truth_names_the_three_ways(run, made, monkeypatch, tmp_path):
    """The option, the configuration and the note."""
    (tmp_path / "p.json").write_bytes((made / "predictions.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    done = run("eval", "p.json")
    assert done.code == 1
    assert all(words in done.err for words in ("p.json: no ground truth", "--gt GT", "kpdata.toml", "p.json.note.json"))


def test_a_wrong_pair_of_files_is_named(run, made):
    """Both files stand in the sentence when they do not fit, and swapped ones are told from others."""
    done = run("eval", made / "predictions.json", "--gt", made / "crowdpose.json")
    assert done.code == 1
    assert f"{made / 'predictions.json'} and {made / 'crowdpose.json'}: the predictions have 17 keypoints" in done.err
    done = run("eval", made / "coco.json", "--gt", made / "predictions.json")
    assert "predictions.json: these are predictions" in done.err
    done = run("eval", made / "coco.json", "--gt", made / "coco.json")
    assert "coco.json: these are annotations, without scores" in done.err
    done = run("eval", made / "predictions.json", "--gt", made / "predictions.json")
    assert "predictions.json: these are predictions" in done.err
    assert "after --gt" in done.err


def test_own_skeleton_and_its_sigmas(run, tmp_path):
    """--skeleton brings sigmas to five keypoints that have no official ones; a perfect prediction then has AP 1."""
    row = {"image_id": 1, "category_id": 1, "keypoints": [10, 20, 2, 30, 40, 2, 50, 60, 2, 70, 80, 2, 90, 9, 2]}
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "hand"}],
             "annotations": [{**row, "id": 1, "num_keypoints": 5, "area": 4000.0, "bbox": [0, 0, 80, 80]}]}  # fmt: skip
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps([{**row, "score": 0.5}]))
    arguments = ("eval", tmp_path / "dt.json", "--gt", tmp_path / "gt.json")
    done = run(*arguments)
    assert done.code == 1
    assert "no official OKS sigmas" in done.err
    assert "--skeleton FILE.toml" in done.err
    skeleton = tmp_path / "five.toml"
    skeleton.write_text('name = "five"\nkeypoints = ["v", "w", "x", "y", "z"]\n[sigmas]\nvalues = [1, 1, 1, 1, 1]\n')
    done = run(*arguments, "--skeleton", skeleton, "--json")
    assert json.loads(done.out)["stats"]["AP"] == pytest.approx(1)
    done = run(*arguments, "--skeleton", "mpii_16")
    assert done.code == 1
    assert "'mpii_16' has 16 keypoints, the ground truth 5" in done.err


def test_arrays_are_not_overwritten(run, made, tmp_path):
    """An existing file stops the command before it scores; --force replaces it."""
    out = tmp_path / "a.npz"
    out.write_text("precious")
    done = run("eval", made / "predictions.json", "--arrays", out)
    assert (done.code, done.out, out.read_text()) == (1, "", "precious")
    assert run("eval", made / "predictions.json", "--arrays", out, "--force").code == 0
    assert np.load(out)["recall"].shape == (10, 1, 3, 1)


def test_empty_predictions(run, made, tmp_path):
    """Zeros with a sentence on stderr, exit 0."""
    (tmp_path / "dt.json").write_text("[]")
    done = run("eval", tmp_path / "dt.json", "--gt", made / "coco.json", "--json")
    assert json.loads(done.out)["stats"]["AP"] == 0
    done = run("eval", tmp_path / "dt.json", "--gt", made / "coco.json")
    assert "no predictions: AP and AR are 0" in done.err


# ------------------------------------------------------------------------------------------------------------ the why


def test_why_in_json_and_in_the_table(run, made):
    """--why adds eight lists to --json, and the tables of a terminal show their numbers."""
    plain = json.loads(run("eval", made / "predictions.json", "--json").out)
    report = json.loads(run("eval", made / "predictions.json", "--json", "--why").out)
    lists = {"helps", "per_keypoint", "keypoint_ap", "errors", "people", "missed_people", "opportunity"}
    assert set(report) - set(plain) == lists | {"opportunity_by_size"}
    printed = run("eval", made / "predictions.json").out
    for number, words in enumerate(report["helps"], start=1):
        assert f"{number}. {words}" in printed
    kinds = {row["keypoint"]: row for row in report["errors"]}
    for row in report["per_keypoint"]:
        if row["visibility"] == "all" and row["keypoint"] != "all":
            line = next(line for line in printed.splitlines() if line.startswith(f"{row['keypoint']} ")).split()
            shares = [f"{kinds[row['keypoint']][f'{kind}_share']:.0%}" for kind in ("good", "jitter", "inversion")]
            assert line[1:4] == [str(row["labelled"]), f"{row['oks_with_missed']:.3f}", f"{row['error_px_median']:.1f}"]
            assert line[4:7] == shares
    for row in report["opportunity"][1:]:
        line = next(line for line in printed.splitlines() if line.startswith(row["error"].replace("_", " ") + "  "))
        assert f" {row['count']:,} " in line
        assert f" {100 * row['ap_gain']:+.1f}" in line
    assert "What would help" not in run("eval", made / "predictions.json", "--no-why").out


def test_numbers_by_size_are_those_of_pycocotools(run, made, judge):
    """The baselines of medium and large people are APm, APl, ARm, ARl; each keypoint alone is AP of files cut down."""
    report = json.loads(run("eval", made / "predictions.json", "--json", "--why").out)
    first = {row["size"]: row for row in report["opportunity_by_size"] if row["error"] == "baseline"}
    stats = dict(zip(NAMES, judge[0].stats.tolist(), strict=True))
    for size, letter in (("all", ""), ("medium", "m"), ("large", "l")):
        for key in ("AP", "AR"):
            found = first[size][key.lower()]
            assert (-1 if found is None else found) == pytest.approx(stats[key + letter], abs=1e-12)
    truth, rows = (json.loads((made / name).read_bytes()) for name in ("coco.json", "predictions.json"))
    for row in [*truth["annotations"], *rows]:
        row["keypoints"] = row["keypoints"][:3]
    for row in truth["annotations"]:
        row["num_keypoints"] = int(row["keypoints"][2] > 0)
    with contextlib.redirect_stdout(io.StringIO()):
        cut = COCO()
        cut.dataset = truth
        cut.createIndex()
        alone = COCOeval(cut, cut.loadRes(rows), "keypoints")
        alone.params.kpt_oks_sigmas = alone.params.kpt_oks_sigmas[:1]
        alone.evaluate()
        alone.accumulate()
    precision = alone.eval["precision"][..., 0, 0]
    assert report["keypoint_ap"][0]["keypoint"] == "nose"
    assert report["keypoint_ap"][0]["ap"] == pytest.approx(precision[precision > -1].mean(), abs=1e-12)


def test_calibration(run, made, judge, tmp_path):
    """--calibration: the curves are pycocotools' precision; the best threshold gives, as a cut through the file, its
    AP; the ECE is the mean distance of its bins; without the option there is none, and a terminal shows the same."""
    plain = json.loads(run("eval", made / "predictions.json", "--json").out)
    report = json.loads(run("eval", made / "predictions.json", "--json", "--calibration").out)
    assert set(report) - set(plain) == {"calibration"}
    (found,) = report["calibration"]
    assert found["skeleton"] == "coco_17"
    np.testing.assert_array_equal(found["curves"]["precision"], judge[0].eval["precision"][:, :, 0, 0, 0])
    for kind in ("persons", "keypoints"):
        bins, count = found[kind]["bins"], sum(row["count"] for row in found[kind]["bins"])
        gaps = [row["count"] / count * abs(row["mean_score"] - row["share_50"]) for row in bins]
        assert found[kind]["ece_50"] == pytest.approx(sum(gaps))
    best = found["best"]
    rows = [row for row in json.loads((made / "predictions.json").read_bytes()) if row["score"] >= best["threshold"]]
    with contextlib.redirect_stdout(io.StringIO()):
        cut = COCOeval(judge[0].cocoGt, judge[0].cocoGt.loadRes(rows), "keypoints")
        cut.evaluate()
        cut.accumulate()
        cut.summarize()
    assert (best["AP"], best["AR"]) == pytest.approx((cut.stats[0], cut.stats[5]), abs=1e-12)
    printed = run("eval", made / "predictions.json", "--calibration").out
    assert f"Are scores of people what they say? ECE {found['persons']['ece_50']:.3f} at OKS 0.5" in printed
    line = next(line for line in printed.splitlines() if line.startswith(f"{best['threshold']:.3g} *"))
    assert line.split()[-1] == f"{best['f1']:.3f}"
    assert "Are scores" not in run("eval", made / "predictions.json").out


def test_two_skeletons(run, made, tmp_path):
    """Everything is told of each of them by its name, in the tables, the JSON and the picture."""
    truth, rows = (json.loads((made / name).read_bytes()) for name in ("coco.json", "predictions.json"))
    short = [
        {**row, "id": 1000 + row["id"], "category_id": 2, "keypoints": row["keypoints"][:42], "num_keypoints": 14}
        for row in truth["annotations"]
    ]
    names = list(load("crowdpose_14").keypoint_names)
    truth["categories"].append({"id": 2, "name": "other", "keypoints": names, "skeleton": []})
    truth["annotations"] += short
    rows += [{**row, "category_id": 2, "keypoints": row["keypoints"][:42]} for row in rows]
    for name, data in (("gt.json", truth), ("dt.json", rows)):
        (tmp_path / name).write_text(json.dumps(data))
    arguments = ("eval", tmp_path / "dt.json", "--gt", tmp_path / "gt.json", "--calibration")
    report = json.loads(run(*arguments, "--why", "--json", "--plot", tmp_path / "k.svg").out)
    both = {"coco_17", "crowdpose_14"}
    assert {part["skeleton"] for part in report["calibration"]} == both
    for key in ("per_keypoint", "keypoint_ap", "errors", "people", "missed_people", "opportunity_by_size"):
        assert {row["skeleton"] for row in report[key]} == both, key
    picture = (tmp_path / "k.svg").read_text(encoding="utf-8")
    assert "coco 17 left ankle" in picture
    assert f"crowdpose 14 {names[0].replace('_', ' ')}" in picture
    lines = run(*arguments).out.splitlines()
    assert sum(line.startswith(("coco_17 ", "crowdpose_14 ")) and " false negatives " in line for line in lines) == 2
    assert any(line.startswith("Are scores of people of crowdpose_14 what they say?") for line in lines)


def test_scores_that_are_no_probabilities(run, made, tmp_path):
    """Logits have no ECE, and the terminal says why."""
    rows = json.loads((made / "predictions.json").read_bytes())
    (tmp_path / "dt.json").write_text(json.dumps([{**row, "score": 20 * row["score"] - 8} for row in rows]))
    done = run("eval", tmp_path / "dt.json", "--gt", made / "coco.json", "--calibration", "--no-why")
    assert done.code == 0
    assert "Are scores of people what they say? scores lie in" in done.out
    assert "they are no probabilities" in done.out


@pytest.mark.parametrize("metric", [(), ("--metric", "pck"), ("--metric", "epe"), ("--metric", "pcp")])
def test_plot(run, made, tmp_path, metric):
    """--plot draws the keypoints by OKS or by PCK …; an ending that is no picture's is refused, a file kept."""
    arguments = ("eval", made / "predictions.json", *metric, "--no-why")
    done = run(*arguments, "--plot", tmp_path / "k.png")
    assert done.code == 0, done.err
    assert "k.png" in done.err
    with Image.open(tmp_path / "k.png") as picture:
        assert min(picture.size) > 300
    assert run(*arguments, "--plot", tmp_path / "k.svg").code == 0
    svg = (tmp_path / "k.svg").read_text(encoding="utf-8")
    assert "lower arm" in svg if "pcp" in metric else "left ankle" in svg
    done = run(*arguments, "--plot", tmp_path / "k.txt")
    assert (done.code, "not written as '.txt'" in done.err) == (1, True)
    done = run(*arguments, "--plot", tmp_path / "k.png")
    assert (done.code, "exists already" in done.err) == (1, True)


def test_plot_of_scores(run, made, tmp_path):
    """With --calibration the picture has its curves too, and the same keypoints; the numbers printed are the same."""
    arguments = ("eval", made / "predictions.json", "--no-why", "--calibration")
    printed = run(*arguments)
    done = run(*arguments, "--plot", tmp_path / "s.svg")
    assert (done.code, done.out) == (0, printed.out)
    svg = (tmp_path / "s.svg").read_text(encoding="utf-8")
    for words in ("Scores of people", "Scores of keypoints", "Which scores to keep", "Precision and recall"):
        assert words in svg
    assert "left ankle" in svg
    done = run("eval", made / "nothing.json", "--gt", made / "coco.json", "--plot", tmp_path / "s.txt")
    assert (done.code, "not written as '.txt'" in done.err) == (1, True)


def test_bootstrap_and_slices(run, made):
    """Intervals hold the numbers of the score; slices of a size hold everybody once; a seed is repeated."""
    arguments = ("eval", made / "predictions.json", "--bootstrap", 50, "--slice", "size", "--slice", "image.width")
    report = json.loads(run(*arguments, "--seed", 3, "--json").out)
    found = report["bootstrap"]
    assert (found["resamples"], found["seed"]) == (50, 3)
    values = {name: row["value"] for name, row in found["intervals"].items()}
    assert values == pytest.approx(report["stats"], abs=1e-12)
    assert sum(row["people"] for row in report["slices"] if row["by"] == "size") == report["counts"]["people scored"]
    assert run(*arguments, "--seed", 3, "--json").out == json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    printed = run(*arguments).out
    assert "95 % intervals, 50 resamples of the images" in printed
    assert "Slices, the worst first" in printed
    assert "95 % of AP" in printed
    assert "95 % of AP" not in run("eval", made / "predictions.json", "--slice", "size").out


def test_one_image_has_no_interval(run, made, tmp_path):
    """A dash for every number and slice, null in JSON, and one note that says how many."""
    truth = json.loads((made / "coco.json").read_bytes())
    image = truth["annotations"][0]["image_id"]
    people = [row for row in truth["annotations"] if row["image_id"] == image]
    images = [row for row in truth["images"] if row["id"] == image]
    (tmp_path / "gt.json").write_text(json.dumps({**truth, "images": images, "annotations": people}))
    found = [row for row in json.loads((made / "predictions.json").read_bytes()) if row["image_id"] == image]
    (tmp_path / "dt.json").write_text(json.dumps(found))
    arguments = ("eval", tmp_path / "dt.json", "--gt", tmp_path / "gt.json", "--bootstrap", 20, "--slice", "dataset")
    done = run(*arguments, "--no-why")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert next(line for line in lines if line.startswith("AR50 ")).split()[-1] == "–"
    assert next(line for line in lines if line.startswith("dataset ")).split()[-1] == "–"
    assert done.err.count("one image gives none") == 1
    report = json.loads(run(*arguments, "--json").out)
    assert {(row["low"], row["high"]) for row in report["bootstrap"]["intervals"].values()} == {(None, None)}
    assert [(row["AP_low"], row["AP_high"]) for row in report["slices"]] == [(None, None)]
    assert "1 of 1 slice (dataset " in report["notes"][-1]
    plain = json.loads(run("eval", tmp_path / "dt.json", "--gt", tmp_path / "gt.json", "--json").out)
    assert plain["notes"] == report["notes"][:-1]


@pytest.mark.parametrize(("metric", "words"), [("oks", "COCO OKS AP/AR"), ("aic", "AI Challenger OKS mAP"),
                                               ("wholebody", "COCO-WholeBody OKS AP/AR")])  # fmt: skip
def test_nobody_at_all_names_the_metric(run, made, tmp_path, metric, words):
    """An empty ground truth: the line about the metric stands there, also with intervals, of which there are none."""
    truth = json.loads((made / "coco.json").read_bytes())
    (tmp_path / "gt.json").write_text(json.dumps({**truth, "annotations": []}))
    arguments = ("eval", made / "predictions.json", "--gt", tmp_path / "gt.json", "--metric", metric)
    for more in ((), ("--bootstrap", 5)):
        done = run(*arguments, *more)
        assert done.code == 0, done.err
        assert done.out.splitlines()[1] == f"{words}, of nobody: the ground truth has no people with keypoints"
    report = json.loads(run(*arguments, "--bootstrap", 5, "--json").out)
    assert {row["value"] for row in report["bootstrap"]["intervals"].values()} == {-1}
    assert {row["low"] for row in report["bootstrap"]["intervals"].values()} == {None}


def test_report_matches_failures_suspects(run, made, tmp_path):
    """Four files: a page with the printed numbers and pictures, and tables with a row for each of the people."""
    names = {"--report": "r.html", "--matches": "m.parquet", "--failures": "f.parquet", "--suspects": "s.parquet"}
    outputs = [word for option, name in names.items() for word in (option, tmp_path / name)]
    done = run("eval", made / "predictions.json", *outputs, "--images", made / "images", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" in page
    assert f"{report['stats']['AP']:.3f}" in page
    people, found = report["counts"]["people"], report["counts"]["predictions"]
    assert pq.read_table(tmp_path / "m.parquet").num_rows == people + found
    listed = pq.read_table(tmp_path / "f.parquet")["annotation_id"].to_pylist()
    truth = json.loads((made / "coco.json").read_bytes())["annotations"]
    assert sorted(one for one in listed if one is not None) == sorted(one["id"] for one in truth)
    assert {"kind", "keypoint", "words"} <= set(pq.read_table(tmp_path / "s.parquet").column_names)
    done = run("eval", made / "predictions.json", *outputs)
    assert (done.code, done.out) == (1, "")
    assert "exists already" in done.err


def test_pictures_that_are_missing_are_counted(run, made, tmp_path):
    """A folder without the pictures: the page is written, and a note says how many people have none."""
    (tmp_path / "none").mkdir()
    done = run("eval", made / "predictions.json", "--report", tmp_path / "r.html", "--images", tmp_path / "none")
    assert done.code == 0
    assert "people are shown without their picture" in done.err
    assert "people are shown without their picture" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_inputs_and_other_outputs_are_not_overwritten(run, made, tmp_path):
    """Not even with --force: predictions, ground truth, and two options with one file."""
    predictions = tmp_path / "p.json"
    predictions.write_bytes((made / "predictions.json").read_bytes())
    before = predictions.read_bytes()
    done = run("eval", predictions, "--gt", made / "coco.json", "--report", predictions, "--force")
    assert done.code == 1
    assert "--report would overwrite" in done.err
    assert run("eval", predictions, "--gt", made / "coco.json", "--matches", made / "coco.json", "--force").code == 1
    assert predictions.read_bytes() == before
    both = tmp_path / "x.parquet"
    arguments = ("eval", predictions, "--gt", made / "coco.json", "--matches", both, "--failures", both)
    assert run(*arguments).code == 2
    assert not both.exists()


@pytest.mark.parametrize(("given", "words"), [
    (("--mode", "x"), "--mode 'x', expected strict or fixed"),
    (("--unknown-images", "x"), "--unknown-images 'x', expected refuse or ignore"),
    (("--max-dets", 0), "0 is not in the range"),
    (("--images", "."), "only a --report shows pictures"),
    (("--report", "r.html", "--images", "nowhere"), "there is no such folder"),
    (("--seed", 1), "only a --bootstrap N draws anything"),
])  # fmt: skip
def test_wrong_usage(run, made, monkeypatch, tmp_path, given, words):
    """Exit 2 and the reason; nothing is printed or written."""
    monkeypatch.chdir(tmp_path)
    done = run("eval", made / "predictions.json", *given)
    assert (done.code, done.out) == (2, "")
    assert words in " ".join(done.err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("given", "words"), [
    (("--metric", "x"), "expected one of oks, crowdpose, wholebody, aic, pckh, pck, pcp, auc, epe, nme"),
    (("--area", "x"), "expected one of file, bbox, bbox×0.53, keypoints"),
    (("--as", "x"), "no evaluator 'x'"),
    (("--as", "hrnet"), "no option variant (--as)"),
    (("--slice", "mood"), "kinds: size, keypoints, occlusion"),
    (("--threshold", 0.5), "has no option threshold"),
    (("--normalize", "torso"), "has no option normalize"),
    (("--metric", "pck", "--mode", "fixed"), "has no option mode"),
    (("--metric", "pck", "--threshold", -1), "expected a number above 0"),
    (("--metric", "pck", "--normalize", "nose:nose"), "to itself is 0"),
    (("--metric", "pck", "--arrays", "a.npz"), "PCK has no --arrays"),
    (("--metric", "pck", "--calibration"), "PCK has no --calibration"),
])  # fmt: skip
def test_options_that_do_not_fit(run, made, monkeypatch, tmp_path, given, words):
    """Exit 1 and a sentence: no option is taken and ignored."""
    monkeypatch.chdir(tmp_path)
    done = run("eval", made / "predictions.json", *given)
    assert (done.code, done.out) == (1, "")
    assert words in done.err
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------- what is scored


def test_area_rules_mode_and_tool_are_named(run, made):
    """--area, --mode and --as stand in the facts, and another area is called not comparable."""
    arguments = ("eval", made / "predictions.json", "--json")
    report = json.loads(run(*arguments, "--area", "bbox*0.53", "--mode", "fixed").out)
    assert (report["area_rules"], report["mode"]) == (["bbox×0.53"], "fixed")
    assert any("not comparable" in note for note in report["notes"])
    assert json.loads(run(*arguments, "--as", "xtcocotools").out)["like"] == "xtcocotools"


def test_max_dets(run, made, judge):
    """One prediction an image: AR is what pycocotools' own matches give when only the best of each image counts."""
    report = json.loads(run("eval", made / "predictions.json", "--max-dets", 1, "--json").out)
    truth, counted = judge[0].cocoGt, 0
    best = [image["dtMatches"][:, :1] for image in judge[0].evalImgs[: len(truth.imgs)] if image is not None]
    counted = sum((matches > 0).mean() for matches in best if matches.size)
    people = sum(one["num_keypoints"] > 0 for one in truth.anns.values())
    assert report["stats"]["AR"] == pytest.approx(counted / people)
    assert any("not comparable with a leaderboard" in note for note in report["notes"])


def test_unknown_images(run, made, tmp_path):
    """Refused with their number and the way out; ignored, the numbers are those without them."""
    rows = json.loads((made / "predictions.json").read_bytes())
    (tmp_path / "dt.json").write_text(json.dumps([*rows, {**rows[0], "image_id": 99}]))
    arguments = ("eval", tmp_path / "dt.json", "--gt", made / "coco.json", "--json")
    done = run(*arguments)
    assert done.code == 1
    assert all(words in done.err for words in ("99", "--unknown-images ignore", "dt.json", "coco.json"))
    report = json.loads(run(*arguments, "--unknown-images", "ignore").out)
    assert report["stats"] == json.loads(run("eval", made / "predictions.json", "--json").out)["stats"]
    assert any("1 prediction for 1 image" in note for note in report["notes"])


def test_image_ids_as_text(run, made, tmp_path):
    """`"image_id": "1"` finds image 1, and a note says so."""
    rows = json.loads((made / "predictions.json").read_bytes())
    (tmp_path / "dt.json").write_text(json.dumps([{**row, "image_id": str(row["image_id"])} for row in rows]))
    report = json.loads(run("eval", tmp_path / "dt.json", "--gt", made / "coco.json", "--json").out)
    assert report["stats"] == json.loads(run("eval", made / "predictions.json", "--json").out)["stats"]
    assert any("not the same kind" in note for note in report["notes"])


def test_yolo_ground_truth(run, made):
    """Its only class 0 is the predictions' only category 1; the area by the box is that of --area bbox*0.53."""
    found = json.loads(run("eval", made / "predictions.json", "--gt", made / "yolo", "--json").out)
    by_box = run("eval", made / "predictions.json", "--gt", made / "coco.json", "--area", "bbox*0.53", "--json").out
    assert found["stats"]["AP"] == pytest.approx(json.loads(by_box)["stats"]["AP"], abs=0.02)
    assert any("taken for the ground truth's only class 0" in note for note in found["notes"])


@pytest.mark.parametrize(("change", "ap", "words"), [
    ({"annotations": []}, -1, "(it has nobody)"),
    ({"iscrowd": 1}, -1, "(all are crowds)"),
    ({"keypoints": [0] * 51, "num_keypoints": 0}, -1, "(nobody has a labelled keypoint)"),
    ({"category_id": 5}, -1, "(nobody is of a category that it lists)"),
    ({"area": float("nan")}, 0.63, "without the effect of NaN in the ground truth AP is 0.0000"),
    ({"area": 0}, 0, "AP is 0.000 because the area"),
])  # fmt: skip
def test_ground_truth_that_makes_no_score(run, made, tmp_path, change, ap, words):
    """A number that means nothing comes with its reason."""
    truth = json.loads((made / "coco.json").read_bytes())
    people = change.get("annotations", [{**row, **change} for row in truth["annotations"]])
    (tmp_path / "gt.json").write_text(json.dumps({**truth, "annotations": people}))
    report = json.loads(run("eval", made / "predictions.json", "--gt", tmp_path / "gt.json", "--json").out)
    assert report["stats"]["AP"] == pytest.approx(ap, abs=0.06)
    assert any(words in note for note in report["notes"]), report["notes"]


def test_nobody_to_find_with_everything_asked_for(run, made, tmp_path):
    """All are crowds: tables, page, picture, slices and calibration have nothing to show, and say so."""
    truth = json.loads((made / "coco.json").read_bytes())
    people = [{**row, "iscrowd": 1} for row in truth["annotations"]]
    (tmp_path / "gt.json").write_text(json.dumps({**truth, "annotations": people}))
    arguments = ("eval", made / "predictions.json", "--gt", tmp_path / "gt.json", "--calibration", "--slice", "size")
    done = run(*arguments, "--plot", tmp_path / "k.png", "--report", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert "Which scores to keep: nothing was predicted, or there is nobody to find" in done.out
    assert "(all are crowds)" in done.err
    report = json.loads(run(*arguments, "--why", "--json").out)
    assert report["calibration"][0]["best"] is None
    assert {row["ap"] for row in report["opportunity_by_size"]} == {None}


def test_predictions_of_another_category(run, made, tmp_path):
    """AP is 0 because of the category, and not without a cause."""
    rows = json.loads((made / "predictions.json").read_bytes())
    (tmp_path / "dt.json").write_text(json.dumps([{**row, "category_id": 7} for row in rows]))
    report = json.loads(run("eval", tmp_path / "dt.json", "--gt", made / "coco.json", "--json").out)
    assert report["notes"][0] == "AP is 0.000 because no prediction has a category_id that the ground truth lists (1)"
    assert not any("no fault" in note for note in report["notes"])


# ------------------------------------------------------------------------------------------------------ single people


def test_pck_of_a_length_in_pixels(run, made):
    """The share of labelled keypoints within threshold × length is counted from the two files."""
    arguments = ("eval", made / "predictions.json", "--metric", "pck", "--normalize", 40, "--threshold", 0.25)
    report = json.loads(run(*arguments, "--json").out)
    assert report["normalizer"] == {"name": "constant", "words": "40 px"}
    assert 0 < report["stats"]["PCK@0.25"] < 1
    row = next(row for row in report["per_keypoint"] if row["keypoint"] == "nose")
    truth = json.loads((made / "coco.json").read_bytes())["annotations"]
    assert row["labelled"] == sum(one["keypoints"][2] > 0 for one in truth)
    printed = run(*arguments).out
    assert "length: 40 px" in printed
    line = next(line for line in printed.splitlines() if line.startswith("nose "))
    assert line.split()[-1] == f"{100 * row['PCK@0.25']:.2f}"
    assert "nose" not in run(*arguments, "--no-why").out
    assert "per_keypoint" not in json.loads(run(*arguments, "--no-why", "--json").out)


def test_pckh_of_published_predictions(run, real_data):
    """The published table of MPII's validation set, Head to Ankle and mean, and HRNet's weighted mean."""
    predictions, truth = real_data / "mpii/preds/bearpaw-hg_s8_b1.mat", real_data / "mpii/detections_our_format.mat"
    report = json.loads(run("eval", predictions, "--gt", truth, "--json").out)
    columns = ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "mean", "total")
    found = [round(100 * report["stats"][name], 2) for name in columns]
    assert found == [96.79, 95.19, 90.08, 85.32, 87.48, 84.26, 80.73, 88.64, 89.09]
    assert report["metric"] == "PCKh"


def test_crowdpose_and_wholebody_have_intervals(run, real_data):
    """Every number that the metric prints has one, by its own name."""
    crowd, whole = real_data / "crowdpose", real_data / "coco_mmpose4"
    for predictions, truth in (
        (crowd / "example_crowdpose_preds.json", crowd / "example_crowdpose_val.json"),
        (whole / "wholebody_preds_5img.json", whole / "wholebody_val_5img.json"),
    ):
        report = json.loads(run("eval", predictions, "--gt", truth, "--bootstrap", 20, "--json").out)
        values = {name: row["value"] for name, row in report["bootstrap"]["intervals"].items()}
        assert values == pytest.approx(report["stats"], abs=1e-12)

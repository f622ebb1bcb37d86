// What is known of the people, and what the reviewer says of them. No drawing here.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const pictures = JSON.parse(byId("pictures").textContent);
const columns = data.people;
const COUNT = columns.kind.length;
const JUDGED = data.kinds.some(([kind]) => kind !== "annotation");
const ABSENT = 0, OCCLUDED = 1, VISIBLE = 2;
const UNLABELLED = -1, GOOD = 0; // of the kinds of error

const plain = (name) => name.replace(/_/g, " ");
const thousands = (number) => number.toLocaleString("en");
const counted = (number, one, many) => `${thousands(number)} ${number === 1 ? one : many}`;

function list(name, i) {
  const { flat, ends } = columns[name];
  return ends[i + 1] > ends[i] ? flat.slice(ends[i], ends[i + 1]) : null;
}

// [[x, y] or null, …] of K keypoints.
function places(name, i, count) {
  const flat = list(name, i);
  return Array.from({ length: count }, (_, k) =>
    flat && flat[2 * k] !== null && flat[2 * k + 1] !== null ? [flat[2 * k], flat[2 * k + 1]] : null);
}

const known = new Map();
function person(i) {
  if (!known.has(i)) known.set(i, read(i));
  return known.get(i);
}

function read(i) {
  const skeleton = data.skeletons[columns.skeleton[i]], count = skeleton.keypoints.length;
  const at = (name) => columns[name][i];
  return {
    i, skeleton, count, kind: at("kind"), file: at("file_name"), window: data.windows[i], picture: pictures[i],
    id: at("annotation_id"), image: at("image_id"), detection: at("detection_id"), skeletonName: at("skeleton"),
    oks: at("oks"), score: at("score"), size: at("size"), labelled: at("labelled"), occluded: at("occluded"),
    suspicion: at("suspicion"), suspect: at("suspect"), findings: at("findings"), lost: at("lost"), loss: at("loss"), nearest: at("nearest"),
    otherOks: at("other_oks"), crowding: at("crowding"), truncated: at("truncated"),
    own: places("keypoints", i, count), theirs: places("predicted_keypoints", i, count),
    proposed: places("proposed_keypoints", i, count), visibility: list("visibility", i) || Array(count).fill(ABSENT),
    classes: list("classes", i) || Array(count).fill(UNLABELLED), off: list("error_px", i) || [],
    sigma: list("error_sigma", i) || [], suspects: list("suspect_keypoints", i) || [],
  };
}

// --------------------------------------------------------------------------------------------------------- the review

const STORE = `kpdata-review:${data.key}:${data.proposals}`; // suggestions of other predictions are other questions
const review = new Map(); // identity -> {decision, keypoints: Map(name -> {x, y, visibility}), note}
const elsewhere = new Map(); // identity -> entry of people who are not on this page: kept and given back
const history = [];
const listeners = [];
let unsaved = false;

const identity = (skeleton, image, id, detection) => [skeleton, image, id === null ? `d${detection}` : id].join("|");
const identityOf = (p) => identity(p.skeletonName, p.image, p.id, p.detection);
const rowOf = new Map(Array.from({ length: COUNT }, (_, i) =>
  [identity(columns.skeleton[i], columns.image_id[i], columns.annotation_id[i], columns.detection_id[i]), i]));

const entryOf = (i) => review.get(identityOf(person(i))) || { decision: null, keypoints: new Map(), note: "" };
const touched = (i) => review.has(identityOf(person(i)));
const copy = (entry) => entry &&
  { ...entry, keypoints: new Map([...entry.keypoints].map(([name, moved]) => [name, { ...moved }])) };

// Can this person's label take a suggestion? Of somebody without a label: be added.
const acceptable = (p) => p.id === null ? p.theirs.some(Boolean) : p.suspicion !== null && p.proposed.some(Boolean);

// The label as the decision alone leaves it: [{at: [x, y] or null, visibility}, …].
function decided(p, decision) {
  const taken = decision === "accept";
  return p.own.map((at, k) => {
    if (p.id === null) return { at: p.theirs[k], visibility: p.theirs[k] ? VISIBLE : ABSENT };
    if (taken && p.suspicion !== null && p.proposed[k]) {
      return { at: p.proposed[k], visibility: p.visibility[k] || VISIBLE };
    }
    return { at, visibility: p.visibility[k] };
  });
}

// The label as the review leaves it.
function reviewed(p) {
  const entry = entryOf(p.i);
  return decided(p, entry.decision).map((point, k) => {
    const moved = entry.keypoints.get(p.skeleton.keypoints[k]);
    if (!moved) return point;
    const at = moved.x === undefined ? point.at : [moved.x, moved.y];
    return { at, visibility: moved.visibility === undefined ? (point.visibility || VISIBLE) : moved.visibility };
  });
}

// Does the review show a label here? Somebody whom nobody labelled has one only when they are added.
const hasLabel = (p) => p.id !== null || entryOf(p.i).decision === "accept";

// A change of one person. Those with the same `tag`, one after the other, are undone together.
function change(i, words, make, tag = null) {
  const p = person(i), name = identityOf(p), before = copy(review.get(name)), entry = copy(entryOf(i));
  make(entry, p);
  settle(entry, p);
  const last = history[history.length - 1];
  if (!(tag && last && last.tag === tag && last.name === name)) history.push({ name, i, before, words, tag });
  put(name, entry);
  changed(i);
}

// What says nothing new is dropped.
function settle(entry, p) {
  const base = decided(p, entry.decision);
  for (const [name, moved] of entry.keypoints) {
    const k = p.skeleton.keypoints.indexOf(name);
    if (k < 0) continue;
    const { at, visibility } = base[k];
    if (moved.x !== undefined && at && Math.abs(moved.x - at[0]) < 0.005 && Math.abs(moved.y - at[1]) < 0.005) {
      delete moved.x;
      delete moved.y;
    }
    if (moved.visibility === visibility && moved.x === undefined) delete moved.visibility;
    if (!Object.keys(moved).length) entry.keypoints.delete(name);
  }
}

const empty = (entry) => entry.decision === null && !entry.note && !entry.keypoints.size;

function put(name, entry) {
  if (!entry || empty(entry)) review.delete(name);
  else review.set(name, entry);
}

function changed(i) {
  let kept = true;
  try {
    localStorage.setItem(STORE, serialise());
  } catch {
    kept = false; // private windows and full disks: the download remains
  }
  unsaved = !kept;
  listeners.forEach((listen) => listen(i, kept));
}

function undo() {
  const last = history.pop();
  if (!last) return null;
  if (last.everything) {
    restore(last.everything);
  } else {
    put(last.name, last.before);
  }
  changed(last.i);
  return last;
}

const snapshot = () => [new Map(review), new Map(elsewhere)];
function restore([here, there]) {
  review.clear();
  elsewhere.clear();
  here.forEach((entry, name) => review.set(name, entry));
  there.forEach((entry, name) => elsewhere.set(name, entry));
}

function decide(i, decision) {
  const taken = entryOf(i).decision === decision;
  change(i, taken ? "decision" : decision, (entry) => { entry.decision = taken ? null : decision; });
  return !taken;
}

// A keypoint gets a place, a visibility, or both. To correct somebody whom nobody labelled is to add them.
function edit(i, k, { at, visibility }, words, tag = null) {
  change(i, words, (entry, p) => {
    const name = p.skeleton.keypoints[k], moved = entry.keypoints.get(name) || {};
    if (at) {
      [moved.x, moved.y] = at.map((value) => Math.round(value * 100) / 100);
      if (reviewed(p)[k].visibility === ABSENT) moved.visibility = VISIBLE;
    }
    if (visibility !== undefined) moved.visibility = visibility;
    if (visibility === ABSENT) { delete moved.x; delete moved.y; }
    entry.keypoints.set(name, moved);
    if (p.id === null) entry.decision = "accept";
  }, tag);
}

const revert = (i, k) => change(i, "correction", (entry, p) => { entry.keypoints.delete(p.skeleton.keypoints[k]); });

// ------------------------------------------------------------------------------------------------------- as a document

// Ids are whole numbers of up to 64 bits, which a script's numbers do not hold: they stay texts here.
const whole = (id) => (id === null || id === undefined ? "null" : String(id));

function line(ids, entry) {
  const { decision, keypoints, note } = entry;
  const rest = JSON.stringify({ skeleton: ids.skeleton, decision, keypoints: Object.fromEntries(keypoints), note });
  return `    {"annotation_id": ${whole(ids.id)}, "image_id": ${whole(ids.image)}, ` +
    `"detection_id": ${whole(ids.detection)}, ${rest.slice(1)}`;
}

// The keypoints of a review with the places that its acceptance gives: nobody needs the predictions to follow it.
function spelled(p, entry) {
  if (entry.decision !== "accept") return entry;
  const keypoints = new Map(), base = decided(p, "accept");
  base.forEach(({ at, visibility }, k) => {
    if (!at || (p.id !== null && !(p.suspicion !== null && p.proposed[k]))) return;
    const mark = p.visibility[k] === ABSENT ? { visibility } : {};
    keypoints.set(p.skeleton.keypoints[k], { x: at[0], y: at[1], ...mark });
  });
  for (const [name, moved] of entry.keypoints) {
    keypoints.set(name, moved.visibility === ABSENT ? moved : { ...keypoints.get(name), ...moved });
  }
  return { ...entry, keypoints };
}

function serialise() {
  const rows = [...review].map(([name, entry]) => [rowOf.get(name), entry]).sort((a, b) => a[0] - b[0]);
  const lines = rows.map(([i, entry]) => {
    const p = person(i);
    return line({ id: p.id, image: p.image, detection: p.detection, skeleton: p.skeletonName }, spelled(p, entry));
  });
  lines.push(...[...elsewhere.values()].map(({ ids, entry }) => line(ids, entry)));
  const people = lines.length ? `[\n${lines.join(",\n")}\n  ]` : "[]";
  return `{\n  "kpdata_review": 1,\n  "key": ${JSON.stringify(data.key)},\n  "people": ${people}\n}\n`;
}

// Takes a review in; the sentence to say. Throws an Error with a sentence where it is none, or one of other data.
function take(text) {
  const read = parse(text);
  const before = snapshot();
  let here = 0;
  for (const found of read) {
    const { ids, entry } = found, name = identity(ids.skeleton, ids.image, ids.id, ids.detection);
    if (rowOf.has(name)) {
      settle(entry, person(rowOf.get(name)));
      put(name, entry);
      here += 1;
    } else {
      elsewhere.set(name, found);
    }
  }
  return { before, here, away: read.length - here };
}

function parse(text) {
  let found;
  try {
    found = JSON.parse(text.replace(/"(annotation_id|image_id|detection_id)"\s*:\s*(-?\d+)/g, '"$1": "$2"'));
  } catch {
    throw new Error("This file is not JSON: expected a review.json");
  }
  if (!found || found.kpdata_review !== 1 || !Array.isArray(found.people)) {
    throw new Error("This file is no review of kpdata, version 1: expected a review.json");
  }
  if (found.key !== data.key) throw new Error("This review is of other data: its key differs from this page's");
  return found.people.map(checkedEntry);
}

function checkedEntry(row, number) {
  const bad = (what) => new Error(`Person ${number + 1} of this review: ${what}`);
  if (!row || typeof row !== "object") throw bad("no object");
  const id = (value) => (value === null || value === undefined ? null : String(value));
  const ids = { id: id(row.annotation_id), image: id(row.image_id), detection: id(row.detection_id) };
  ids.skeleton = typeof row.skeleton === "string" ? row.skeleton : "";
  if (Object.keys(ids).some((key) => key !== "skeleton" && ids[key] !== null && !/^-?\d+$/.test(ids[key]))) {
    throw bad("ids are whole numbers or null");
  }
  const decision = row.decision === undefined ? null : row.decision, keypoints = new Map();
  if (![null, "accept", "reject"].includes(decision)) throw bad('the decision is "accept", "reject" or null');
  for (const [name, moved] of Object.entries(row.keypoints || {})) {
    const both = Number.isFinite(moved?.x) && Number.isFinite(moved?.y);
    const marked = [ABSENT, OCCLUDED, VISIBLE].includes(moved?.visibility);
    if (!both && !marked) throw bad(`keypoint ${name} has neither a place nor a visibility of 0, 1, 2`);
    const mark = marked ? { visibility: moved.visibility } : {};
    keypoints.set(name, { ...(both ? { x: moved.x, y: moved.y } : {}), ...mark });
  }
  return { ids, entry: { decision, keypoints, note: typeof row.note === "string" ? row.note : "" } };
}

// What an earlier visit left in this browser.
function recover() {
  try {
    const text = localStorage.getItem(STORE);
    return text ? take(text) : null;
  } catch {
    return null;
  }
}

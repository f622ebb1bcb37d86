// Skeletons over crops, as SVG in pixels of the image. A whole number is the middle of a pixel: half a pixel is added.

const SVG = "http://www.w3.org/2000/svg";
const JPEG = "data:image/jpeg;base64,";

function node(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  fill(made, attributes);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function shape(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  fill(made, attributes);
  return made;
}

function fill(made, attributes) {
  Object.entries(attributes).forEach(([key, value]) => value !== null && made.setAttribute(key, value));
}

const spot = (p, at) => `${(at[0] + 0.5 - p.window[0]).toFixed(1)} ${(at[1] + 0.5 - p.window[1]).toFixed(1)}`;
const limbs = (p, points) => p.skeleton.edges.filter(([a, b]) => points[a] && points[b])
  .map(([a, b]) => `M${spot(p, points[a])}L${spot(p, points[b])}`).join("");
const dots = (p, points, wanted = () => true) => points
  .map((at, k) => (at && wanted(k) ? `M${spot(p, at)}h0` : "")).join(""); // round caps make dots of lines without length
const links = (p, from, to, wanted) => from
  .map((at, k) => (at && to[k] && wanted(k) ? `M${spot(p, at)}L${spot(p, to[k])}` : "")).join("");

// The crop with both skeletons. layers: which of label, prediction, proposal; chosen: a keypoint, or -1.
function drawing(p, { layers = ALL_LAYERS, chosen = -1 } = {}) {
  const [left, top, right, bottom] = p.window;
  const svg = shape("svg", { viewBox: `0 0 ${right - left} ${bottom - top}`, "aria-hidden": "true", focusable: "false" });
  svg.classList.toggle("blank", !p.picture);
  if (p.picture) {
    svg.append(shape("image", { href: JPEG + p.picture, width: right - left, height: bottom - top, preserveAspectRatio: "none" }));
  }
  const overlay = shape("g");
  svg.append(overlay);
  overdraw(overlay, p, layers, chosen);
  return svg;
}

const ALL_LAYERS = { label: true, prediction: true, proposal: true };

// unit: pixels of the image in one of the screen.
function overdraw(overlay, p, layers, chosen, unit = 1) {
  const parts = [];
  const path = (style, d) => d && parts.push(shape("path", { class: style, d }));
  const entry = entryOf(p.i), label = reviewed(p);
  const shown = hasLabel(p) ? label.map(({ at, visibility }) => (visibility === ABSENT ? null : at)) : label.map(() => null);
  const moved = (k) => entry.keypoints.has(p.skeleton.keypoints[k]) || Boolean(entry.decision === "accept" && p.proposed[k]);
  if (layers.label) {
    path("halo", limbs(p, shown));
    path("tl", limbs(p, shown));
    path("was", links(p, p.own, label.map(({ at }) => at), moved));
  }
  if (layers.prediction) {
    path("halo", limbs(p, p.theirs));
    path("pl", limbs(p, p.theirs));
  }
  const wrong = (k) => p.classes[k] > GOOD;
  if (layers.label && layers.prediction) path("lk", links(p, p.theirs, shown, wrong));
  if (layers.proposal && entry.decision !== "accept" && p.id !== null) {
    path("pr", links(p, shown, p.proposed, () => true));
    path("pd", dots(p, p.proposed));
  }
  if (layers.prediction) predictedDots(p, path);
  if (layers.label) labelDots(p, shown, label, moved, path);
  if (chosen >= 0) mark(p, chosen, label, parts, unit);
  overlay.replaceChildren(...parts);
}

function predictedDots(p, path) {
  path("pu", dots(p, p.theirs, (k) => p.classes[k] < GOOD));
  data.errors.forEach((kind, number) => {
    const d = dots(p, p.theirs, (k) => p.classes[k] === number);
    path("ring", d);
    path(`dot d-${kind}`, d);
  });
}

// Occluded keypoints are hollow; those that the review changed are blue.
function labelDots(p, shown, label, moved, path) {
  const hidden = (k) => label[k].visibility === OCCLUDED;
  path("td-edge", dots(p, shown));
  path("td", dots(p, shown, (k) => !moved(k)));
  path("td new", dots(p, shown, moved));
  path("td-hole", dots(p, shown, hidden));
}

function mark(p, chosen, label, parts, unit) {
  const at = label[chosen].at;
  if (!at || label[chosen].visibility === ABSENT) return;
  const [cx, cy] = spot(p, at).split(" ");
  parts.push(...["chosen-edge", "chosen-ring"].map((style) => shape("circle", { class: style, cx, cy, r: 11 * unit })));
}

// --------------------------------------------------------------------------------------------------------- in words

const WRONG = 4; // keypoints that a card names

function title(p) {
  if (p.id !== null) return `person ${p.id}`;
  return `prediction ${p.detection}`;
}

function numbers(p) {
  const parts = [["OKS", p.oks], ["score", p.score]].filter(([, value]) => value !== null)
    .map(([word, value]) => `${word} ${value.toFixed(2)}`);
  const judged = p.oks === null ? p.classes.filter((kind) => kind >= GOOD) : []; // by a metric of single people
  if (judged.length) parts.push(`${judged.filter((kind) => kind === GOOD).length} of ${judged.length} right`);
  if (p.labelled !== null) {
    const hidden = p.occluded ? `, ${p.occluded} hidden` : "";
    parts.push(`${p.size ? `${p.size}, ` : ""}${p.labelled} labelled${hidden}`);
  }
  if (p.otherOks !== null && p.lost !== null) parts.push(`the other model: OKS ${p.otherOks.toFixed(2)}`);
  else if (p.lost !== null) parts.push(`the other model: ${(100 * p.lost).toFixed(0)} % more right`);
  if (p.loss !== null) parts.push(`loss ${p.loss.toPrecision(3)}`);
  return parts.join(" · ");
}

function source(p) {
  const ids = [["person", p.id], ["prediction", p.detection]].filter(([, id]) => id !== null);
  return [p.file || `image ${p.image}`, ...ids.map(([word, id]) => `${word} ${id}`)].join(" · ");
}

// [kind, words] of the keypoints that are off, the farthest (in sigma units, without sigmas in px) first.
function wrongOnes(p) {
  const far = p.sigma.length ? p.sigma : p.off;
  const all = [...p.classes.keys()].filter((k) => p.classes[k] > GOOD)
    .sort((a, b) => (far[b] ?? Infinity) - (far[a] ?? Infinity));
  return all.map((k) => {
    const kind = data.errors[p.classes[k]], off = p.off[k];
    return [kind, `${plain(p.skeleton.keypoints[k])}: ${kind}, ${Number.isFinite(off) ? `${Math.round(off)} px off` : "no place"}`];
  });
}

const bullet = (kind, words) => node("li", {}, node("i", { class: kind ? `b-${kind}` : "" }), node("span", {}, words));

function wordsOf(p, most = WRONG) {
  const all = wrongOnes(p), items = all.slice(0, most).map(([kind, words]) => bullet(kind, words));
  if (all.length > most) items.push(bullet("", `and ${all.length - most} more`));
  if (p.suspect) items.push(bullet("suspect", p.suspect));
  if (p.nearest && most === Infinity) items.push(bullet("", p.nearest));
  if (p.findings) items.push(bullet("finding", p.findings));
  return items.length ? node("ul", { class: "wrong" }, ...items) : "";
}

const css = (kind) => kind.replace(/ /g, "-");
const badge = (p) => node("div", { class: "badge" }, node("i", { class: `b-${css(p.kind)}` }), p.kind);

// What the review says of a person, in a word or two; "" where it says nothing.
function verdict(p) {
  if (!touched(p.i)) return "";
  const { decision, keypoints, note } = entryOf(p.i);
  const words = decision ? [decision === "accept" ? "accepted" : "rejected"] : [];
  if (keypoints.size) words.push(counted(keypoints.size, "keypoint corrected", "keypoints corrected"));
  if (note) words.push("note");
  return words.join(", ");
}

// Filters, counts and cards.

const CHUNK = 90; // cards that are made at once
const filter = { kinds: new Set(), view: "", keypoint: "", what: "any", slice: "", state: "", sort: "order", search: "" };
let shown = []; // positions that pass, in order
let made = 0; // cards of these that are on the page
let focused = 0; // position in `shown` whose card the Tab key reaches

// ------------------------------------------------------------------------------------------------------- what can be

const CROWDED = 0.1, HALF = 0.5; // overlap of boxes; share of hidden keypoints
const SLICES = [
  ["size", ["small", "medium", "large"], (i) => columns.size[i]],
  ["crowding", ["alone", "crowded"], (i) => columns.crowding[i] === null ? null : columns.crowding[i] < CROWDED ? "alone" : "crowded"],
  ["image edge", ["whole", "cut"], (i) => columns.truncated[i] === null ? null : columns.truncated[i] ? "cut" : "whole"],
  ["hidden keypoints", ["none", "some", "half or more"], (i) => {
    const share = columns.occluded_share[i];
    return share === null ? null : share === 0 ? "none" : share < HALF ? "some" : "half or more";
  }],
  ["source", [...new Set(columns.source)].filter((name) => name !== null), (i) => columns.source[i]],
];

const SORTS = [
  ["order", "worst first", null],
  ["oks", "lowest OKS", (i) => columns.oks[i]],
  ["score", "highest score", (i) => columns.score[i] === null ? null : -columns.score[i]],
  ["suspicion", "most suspicious", (i) => columns.suspicion[i] === null ? null : -columns.suspicion[i]],
  ["lost", "lost against the other model", (i) => columns.lost[i] === null ? null : -columns.lost[i]],
  ["loss", "highest loss", (i) => columns.loss[i] === null ? null : -columns.loss[i]],
  ["novelty", "least like the training", (i) => columns.novelty[i] === null ? null : -columns.novelty[i]],
  ["far", "farthest off", (i) => farthest(i)],
  ["area", "largest", (i) => columns.area[i] === null ? null : -columns.area[i]],
  ["file", "file name", (i) => columns.file_name[i]],
];

// At the chosen keypoint, else at the worst one; in sigma units, without sigmas in px.
function farthest(i) {
  const values = list("error_sigma", i) || list("error_px", i);
  if (!values) return null;
  const k = filter.keypoint ? columnOf(i, filter.keypoint) : -1;
  const known = (k >= 0 ? [values[k]] : values).filter((value) => typeof value === "number");
  return known.length ? -Math.max(...known) : null;
}

const STATES = [
  ["", "all", () => true],
  ["open", "not reviewed", (i) => !touched(i)],
  ["done", "reviewed", touched],
  ["accept", "accepted", (i) => entryOf(i).decision === "accept"],
  ["reject", "rejected", (i) => entryOf(i).decision === "reject"],
  ["moved", "corrected", (i) => entryOf(i).keypoints.size > 0],
];

const names = [...new Set(Object.values(data.skeletons).flatMap((skeleton) => skeleton.keypoints))];
const columnsByName = new Map(Object.entries(data.skeletons).map(([name, { keypoints }]) =>
  [name, new Map(keypoints.map((keypoint, k) => [keypoint, k]))]));
const columnOf = (i, name) => columnsByName.get(columns.skeleton[i]).get(name) ?? -1;
const cell = (name, i, k) => (list(name, i) || [])[k];

// What a keypoint can be, [value, words, does it fit].
const WHATS = [
  ...(JUDGED ? [["any", "wrong", (i, k) => cell("classes", i, k) > GOOD]] : []),
  ...(JUDGED ? data.errors.map((kind, number) => [kind, kind, (i, k) => cell("classes", i, k) === number]) : []),
  ["labelled", "labelled", (i, k) => cell("visibility", i, k) > ABSENT],
  ["occluded", "occluded", (i, k) => cell("visibility", i, k) === OCCLUDED],
  ["visible", "visible", (i, k) => cell("visibility", i, k) >= VISIBLE],
  ["absent", "not labelled", (i, k) => columns.annotation_id[i] !== null && !(cell("visibility", i, k) > ABSENT)],
  ["suspect", "suspicious", (i, k) => (list("suspect_keypoints", i) || []).includes(k)],
];
filter.what = WHATS[0][0];

// ------------------------------------------------------------------------------------------------------------ filter

const searched = Array.from({ length: COUNT }, (_, i) =>
  [columns.file_name[i], columns.image_id[i], columns.annotation_id[i], columns.detection_id[i]].join("\n").toLowerCase());

function passes() {
  const tests = [];
  if (filter.keypoint) {
    const fits = WHATS.find(([value]) => value === filter.what)[2];
    tests.push((i) => { const k = columnOf(i, filter.keypoint); return k >= 0 && fits(i, k); });
  }
  if (filter.slice) {
    const [by, label] = filter.slice.split("\n"), of = SLICES.find(([name]) => name === by)[2];
    tests.push((i) => of(i) === label);
  }
  if (filter.state) tests.push(STATES.find(([value]) => value === filter.state)[2]);
  const text = filter.search.trim().toLowerCase();
  if (text) tests.push((i) => searched[i].includes(text));
  return (i) => tests.every((test) => test(i));
}

function apply() {
  const view = data.views.find(({ name }) => name === filter.view);
  const start = view ? view.rows : [...columns.kind.keys()], fits = passes();
  const any = start.filter(fits);
  countKinds(any);
  shown = filter.kinds.size ? any.filter((i) => filter.kinds.has(columns.kind[i])) : any;
  const key = SORTS.find(([value]) => value === filter.sort)[2];
  if (key) shown = sorted(shown, key);
  say(view);
  seen.disconnect();
  byId("cards").replaceChildren();
  made = focused = 0;
  grow();
}

function sorted(rows, key) {
  const values = new Map(rows.map((i) => [i, key(i)]));
  return [...rows].sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x === null || y === null) return (x === null) - (y === null); // those without a value last
    return x < y ? -1 : x > y ? 1 : 0;
  });
}

function say(view) {
  const filtered = shown.length < COUNT || filter.kinds.size;
  byId("count").textContent = `${filtered ? `${thousands(shown.length)} of ` : ""}${counted(COUNT, "person", "people")}` +
    (data.total > COUNT ? ` on this page, of ${thousands(data.total)} in the data` : "");
  byId("clear").hidden = !filtered && filter.sort === "order";
  byId("empty").hidden = shown.length > 0;
  byId("sentence").hidden = !view;
  if (view) {
    const missing = view.total - view.rows.length;
    byId("sentence").textContent = view.sentence + (missing ? ` (${thousands(missing)} more are not on this page.)` : "");
  }
}

function countKinds(rows) {
  const counts = new Map();
  rows.forEach((i) => counts.set(columns.kind[i], (counts.get(columns.kind[i]) || 0) + 1));
  for (const chip of byId("kinds").children) {
    chip.setAttribute("aria-pressed", String(filter.kinds.has(chip.dataset.kind)));
    chip.lastElementChild.textContent = thousands(counts.get(chip.dataset.kind) || 0);
  }
}

// ------------------------------------------------------------------------------------------------------------- cards

function grow() {
  const stop = Math.min(made + CHUNK, shown.length), cards = [];
  for (; made < stop; made += 1) cards.push(card(made));
  byId("cards").append(...cards);
  cards.forEach((made) => seen.observe(made));
}

function card(position) {
  const p = person(shown[position]);
  const view = node("button", { type: "button", class: "view", tabindex: position === focused ? 0 : -1,
    "aria-label": `${p.kind}, ${title(p)}, ${p.file || `image ${p.image}`}: open` });
  const words = node("div", { class: "words" }, badge(p), node("div", {}, numbers(p)), wordsOf(p),
    node("div", { class: "soft" }, source(p)), node("div", { class: "verdict" }));
  const made = node("li", { class: "card" }, view, words);
  made.dataset.position = position;
  made.dataset.person = p.i;
  mend(made);
  return made;
}

function mend(element) {
  const p = person(Number(element.dataset.person)), words = verdict(p);
  element.querySelector(".verdict").textContent = words;
  element.classList.toggle("reviewed", Boolean(words));
  const view = element.querySelector(".view");
  if (view.firstChild) view.replaceChildren(drawing(p));
}

// Pictures are drawn, and decoded, when their cards come near, and dropped when they are far away.
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const view = target.querySelector(".view");
    if (!isIntersecting) view.replaceChildren();
    else if (!view.firstChild) view.append(drawing(person(Number(target.dataset.person))));
  }
}, { rootMargin: "800px" });
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) grow();
}, { rootMargin: "1200px" }).observe(byId("more"));

function focusCard(position) {
  const next = Math.max(0, Math.min(position, shown.length - 1));
  while (made <= next && made < shown.length) grow();
  const cards = byId("cards").children;
  if (!cards.length) return;
  cards[Math.min(focused, cards.length - 1)].querySelector(".view").tabIndex = -1;
  focused = next;
  const view = cards[next].querySelector(".view");
  view.tabIndex = 0;
  view.focus();
}

function cardsInRow() {
  const cards = [...byId("cards").children], top = cards.length ? cards[0].offsetTop : 0;
  const other = cards.findIndex((element) => element.offsetTop !== top);
  return other < 0 ? cards.length : other;
}

function gridKeys(event) {
  const at = event.target.closest(".card");
  if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
  const position = Number(at.dataset.position), i = shown[position];
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: cardsInRow(), ArrowUp: -cardsInRow() };
  if (event.key in steps) focusCard(position + steps[event.key]);
  else if (event.key === "Home") focusCard(0);
  else if (event.key === "End") focusCard(shown.length - 1);
  else if (event.key === "a") judge(i, "accept");
  else if (event.key === "r") judge(i, "reject");
  else if (event.key === "n") focusCard(undecidedAfter(position));
  else return;
  event.preventDefault();
}

// The next position without a decision, from the start again after the end; where there is none, the same.
function undecidedAfter(position) {
  const order = [...shown.keys()].map((step) => (position + 1 + step) % shown.length);
  return order.find((next) => entryOf(shown[next]).decision === null) ?? position;
}

// ------------------------------------------------------------------------------------------------- the page around them

function option(value, words) {
  return node("option", { value }, words);
}

function setUpFilters() {
  byId("kinds").append(...data.kinds.map(([kind]) => {
    const chip = node("button", { type: "button", class: "chip" }, node("i", { class: `b-${css(kind)}` }), kind, " ", node("small"));
    chip.dataset.kind = kind;
    chip.addEventListener("click", () => {
      if (!filter.kinds.delete(kind)) filter.kinds.add(kind);
      apply();
    });
    return chip;
  }));
  byId("kinds").hidden = data.kinds.length < 2;
  byId("view-label").hidden = !data.views.length;
  byId("view").append(option("", "everybody"), ...data.views.filter(({ name }) => name !== "everybody").map(({ name, rows }) => option(name, `${name} (${thousands(rows.length)})`)));
  byId("keypoint").append(option("", "any"), ...names.map((name) => option(name, plain(name))));
  byId("what").append(...WHATS.map(([value, words]) => option(value, words)));
  byId("slice").append(option("", "everybody"), ...SLICES.map(sliceGroup).filter(Boolean));
  byId("state").append(...STATES.map(([value, words]) => option(value, words)));
  byId("sort").append(...SORTS.filter(([, , key]) => !key || [...columns.kind.keys()].some((i) => key(i) !== null))
    .map(([value, words]) => option(value, words)));
  for (const name of ["view", "keypoint", "what", "slice", "state", "sort", "search"]) {
    byId(name).addEventListener("input", () => set({ [name]: byId(name).value }));
  }
  byId("clear").addEventListener("click", () => {
    filter.kinds.clear();
    set({ view: "", keypoint: "", what: WHATS[0][0], slice: "", state: "", sort: "order", search: "" });
    byId("view").focus();
  });
}

// The kinds of people that are there, with their counts; nothing where all are of one kind.
function sliceGroup([by, labels, of]) {
  const counts = new Map();
  for (let i = 0; i < COUNT; i += 1) counts.set(of(i), (counts.get(of(i)) || 0) + 1);
  const some = labels.filter((label) => counts.has(label));
  if (some.length < 2) return null;
  return node("optgroup", { label: by }, ...some.map((label) => option(`${by}\n${label}`, `${by}: ${label} (${thousands(counts.get(label))})`)));
}

function set(values) {
  Object.assign(filter, values);
  for (const [name, value] of Object.entries(values)) if (byId(name).value !== value) byId(name).value = value;
  byId("what").disabled = !filter.keypoint;
  apply();
}

function setUpFacts() {
  byId("notes").hidden = !data.notes.length;
  byId("notes").append(...data.notes.map((note) => node("li", {}, note)));
  byId("numbers").hidden = !data.stats.length;
  byId("numbers").append(...data.stats.map(([name, value]) => node("div", {}, node("dt", {}, name), node("dd", {}, value))));
  const legend = JUDGED ? [["label", "label"], ["hollow", "occluded"], ["prediction", "prediction"],
    ...data.errors.map((kind) => [`b-${kind}`, `${kind}: ${data.meanings[kind]}`])] : [["label", "label"], ["hollow", "occluded"]];
  if (columns.suspicion.some((value) => value !== null)) legend.push(["proposal", "suggested"]);
  legend.push(["new", "corrected by you"]);
  byId("legend").append(...legend.map(([style, words]) => node("li", {}, node("i", { class: style }), words)));
}

// ------------------------------------------------------------------------------------------------------- keypoint bars

const BAR_WORDS = { occluded: "labelled and hidden", visible: "labelled and seen" };

function setUpBars() {
  for (const id of ["bars", "curves"]) if (byId(id)) byId(id).open = window.innerWidth > 760;
  byId("bars").hidden = !data.bars.length;
  if (!data.bars.length) return;
  byId("bars-words").textContent = JUDGED
    ? "What the keypoints of all found people are; the number is the share that is not good. Click a bar to see those people, or a part of it for one kind of error."
    : "How often each keypoint is labelled. Click a bar, or a part of it, to see those people.";
  const parts = data.bars[0].rows.length ? data.bars[0].rows[0].parts.map(([kind]) => kind) : [];
  byId("bars-legend").append(...parts.map((kind) => node("li", {}, node("i", { class: `b-${kind}` }), data.meanings[kind] ? `${kind}: ${data.meanings[kind]}` : BAR_WORDS[kind])));
  for (const { skeleton, rows } of data.bars) {
    if (data.bars.length > 1) byId("bars-rows").append(node("h3", {}, skeleton));
    const most = Math.max(1, ...rows.map((row) => row.labelled));
    byId("bars-rows").append(node("div", { class: "bars" }, ...rows.map((row) => barRow(row, most))));
  }
}

function barRow({ keypoint, parts, labelled }, most) {
  const total = parts.reduce((sum, [, count]) => sum + count, 0), scale = JUDGED ? total : most;
  const right = parts.find(([kind]) => kind === "good"), share = total && right ? 1 - right[1] / total : 0;
  const number = JUDGED ? (total ? `${(100 * share).toFixed(0)} %` : "–") : thousands(labelled);
  const strip = node("span", { class: "strip" }, ...parts.filter(([, count]) => count).map(([kind, count]) => {
    const words = `${plain(keypoint)}, ${kind}: ${thousands(count)}${total ? `, ${(100 * count / total).toFixed(1)} %` : ""}`;
    const part = node("span", { class: `b-${kind}`, title: words });
    part.style.width = `${100 * count / Math.max(scale, 1)}%`;
    if (kind !== "good") part.dataset.what = kind;
    return part;
  }));
  const row = node("button", { type: "button", class: "bar-row" }, node("span", {}, plain(keypoint)), strip, node("span", { class: "n" }, number));
  row.addEventListener("click", (event) => {
    set({ keypoint, what: event.target.dataset.what || (JUDGED ? "any" : "labelled") });
    byId("count").scrollIntoView({ block: "center" });
  });
  return row;
}

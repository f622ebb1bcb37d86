// One person, large: decisions, corrections, keys. Then the start of the page.

const dialog = byId("person");
const REACH = 26; // px around a keypoint where a finger finds it
const STILL = 4; // px that a click may tremble
let open = -1; // position in `shown`
let chosen = -1; // keypoint
let drag = null;
const layers = { ...ALL_LAYERS };

const current = () => person(shown[open]);

function show(position) {
  if (!shown.length) return;
  open = (position + shown.length) % shown.length;
  chosen = -1;
  const p = current();
  byId("person-title").replaceChildren(node("i", { class: `b-${css(p.kind)}` }), `${p.kind}, ${title(p)}`);
  byId("person-place").textContent = `${thousands(open + 1)} of ${thousands(shown.length)} · ${source(p)}`;
  byId("person-words").replaceChildren(node("p", {}, numbers(p)), wordsOf(p, Infinity));
  byId("stage").replaceChildren(drawing(p, { layers }));
  byId("note").value = entryOf(p.i).note;
  byId("stage").setAttribute("aria-label", `Picture of ${title(p)}. k chooses a keypoint, arrows move it.`);
  listPoints(p);
  if (!dialog.open) {
    dialog.showModal();
    byId("stage").focus();
  }
  refresh();
}

function refresh() {
  const p = current(), { decision, keypoints } = entryOf(p.i), label = reviewed(p);
  const overlay = byId("stage").querySelector("g");
  overdraw(overlay, p, layers, chosen, scale(overlay.ownerSVGElement));
  if (chosen >= 0) nameChosen(p, overlay, label);
  const able = acceptable(p);
  byId("accept").replaceChildren(p.id === null ? "Add this person " : "Take the suggestion ", node("kbd", {}, "a"));
  byId("reject").replaceChildren(p.id === null ? "Nobody is there " : "The label is right ", node("kbd", {}, "r"));
  byId("accept").disabled = !able;
  byId("accept").setAttribute("aria-pressed", String(decision === "accept"));
  byId("reject").setAttribute("aria-pressed", String(decision === "reject"));
  byId("decide-words").textContent = sentence(p, decision, keypoints.size, able);
  const point = chosen >= 0 ? label[chosen] : null;
  byId("chosen").textContent = point ? plain(p.skeleton.keypoints[chosen]) : "Choose a keypoint";
  byId("occluded").disabled = !point || !point.at;
  byId("occluded").setAttribute("aria-pressed", String(Boolean(point) && point.visibility === OCCLUDED));
  byId("absent").disabled = !point;
  byId("absent").setAttribute("aria-pressed", String(Boolean(point) && point.visibility === ABSENT));
  byId("predicted").disabled = !point || !p.theirs[chosen];
  byId("restore").disabled = !point || !keypoints.has(p.skeleton.keypoints[chosen]);
  [...byId("points").children].forEach((button, k) => markPoint(button, p, k, label[k], keypoints));
}

function sentence(p, decision, corrections, able) {
  if (p.id === null) {
    return decision === "accept" ? "This person will be added, where the prediction is or where you put it."
      : decision === "reject" ? "Nobody is there: nothing is added." : "Nobody is labelled here. Moving a keypoint adds the person.";
  }
  const also = corrections ? ` ${counted(corrections, "keypoint", "keypoints")} corrected by you.` : "";
  if (decision === "accept" && !able) return `Accepted, but nothing is suggested here.${also}`;
  if (decision === "accept") return `The label takes the suggested places.${also}`;
  if (decision === "reject") return `The label is right as it is${also ? ", but" : ""}.${also}`;
  return (able ? "A correction of this label is suggested." : "No correction is suggested: drag keypoints where the label is wrong.") + also;
}

function nameChosen(p, overlay, label) {
  const { at, visibility } = label[chosen], svg = overlay.ownerSVGElement;
  if (!at || visibility === ABSENT) return;
  const unit = scale(svg), width = p.window[2] - p.window[0], [x, y] = spot(p, at).split(" ").map(Number);
  const anchor = x < 50 * unit ? "start" : x > width - 50 * unit ? "end" : "middle"; // inside the picture
  const text = shape("text", { x, y: y < 34 * unit ? y + 27 * unit : y - 17 * unit, "font-size": 13 * unit, "text-anchor": anchor, "stroke-width": 3 * unit });
  text.textContent = plain(p.skeleton.keypoints[chosen]);
  overlay.append(text);
}

// Pixels of the image in one pixel of the screen.
const scale = (svg) => 1 / (svg.getScreenCTM()?.a || 1);

// -------------------------------------------------------------------------------------------------------- keypoints

const STATES_OF = ["not labelled", "occluded", "visible", "labelled"];

function listPoints(p) {
  byId("points").replaceChildren(...p.skeleton.keypoints.map((name, k) => {
    const kind = p.classes[k] >= GOOD ? data.errors[p.classes[k]] : "";
    const off = Number.isFinite(p.off[k]) ? `${Math.round(p.off[k])} px` : "";
    const words = node("span", { class: "soft" });
    const button = node("button", { type: "button", class: "point" }, node("i", { class: kind ? `b-${kind}` : "" }),
      node("span", {}, plain(name)), words, node("span", { class: "n" }, kind && kind !== "good" ? `${kind} ${off}` : off));
    button.addEventListener("click", () => choose(chosen === k ? -1 : k));
    return button;
  }));
}

function markPoint(button, p, k, { visibility }, keypoints) {
  button.setAttribute("aria-pressed", String(k === chosen));
  button.classList.toggle("new", keypoints.has(p.skeleton.keypoints[k]));
  button.classList.toggle("suspect", p.suspects.includes(k));
  button.children[2].textContent = STATES_OF[visibility] + (keypoints.has(p.skeleton.keypoints[k]) ? ", corrected" : "");
}

function choose(k) {
  chosen = k;
  refresh();
  if (k >= 0) byId("points").children[k].scrollIntoView({ block: "nearest" });
}

function toggleOccluded() {
  const p = current(), { at, visibility } = reviewed(p)[chosen];
  if (!at) return;
  const back = p.visibility[chosen] > OCCLUDED ? p.visibility[chosen] : VISIBLE;
  const next = visibility === OCCLUDED ? back : OCCLUDED;
  edit(p.i, chosen, { visibility: next }, `${plain(p.skeleton.keypoints[chosen])} ${STATES_OF[next]}`);
}

function toggleAbsent() {
  const p = current(), { visibility } = reviewed(p)[chosen];
  if (visibility === ABSENT) revert(p.i, chosen);
  else edit(p.i, chosen, { visibility: ABSENT }, `${plain(p.skeleton.keypoints[chosen])} not labelled`);
}

function placeAt(at, tag = null) {
  const p = current();
  edit(p.i, chosen, { at: inside(p, at) }, `${plain(p.skeleton.keypoints[chosen])} moved`, tag);
}

const inside = (p, [x, y]) => [
  Math.max(p.window[0] - 0.5, Math.min(x, p.window[2] - 0.5)), Math.max(p.window[1] - 0.5, Math.min(y, p.window[3] - 0.5))];

function nudge(dx, dy) {
  const p = current(), { at, visibility } = reviewed(p)[chosen];
  const middle = [(p.window[0] + p.window[2] - 1) / 2, (p.window[1] + p.window[3] - 1) / 2];
  const from = at && visibility !== ABSENT ? at : p.theirs[chosen] || middle; // one that is not labelled appears first
  placeAt(from === at ? [at[0] + dx, at[1] + dy] : from, `nudge ${chosen}`);
}

// ---------------------------------------------------------------------------------------------------- mouse and finger

// Where a pointer is, in pixels of the image.
function imagePlace(event) {
  const p = current(), matrix = byId("stage").querySelector("svg").getScreenCTM().inverse();
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  return [at.x - 0.5 + p.window[0], at.y - 0.5 + p.window[1]];
}

function nearest(p, at, reach) {
  let best = -1, least = reach;
  reviewed(p).forEach((point, k) => {
    if (!point.at || point.visibility === ABSENT) return;
    const apart = Math.hypot(point.at[0] - at[0], point.at[1] - at[1]) - (k === chosen ? reach / 3 : 0); // the chosen one first
    if (apart < least) [best, least] = [k, apart];
  });
  return best;
}

function grab(event) {
  if (event.button) return;
  const p = current(), at = imagePlace(event), unit = scale(byId("stage").querySelector("svg"));
  const missing = chosen >= 0 && (reviewed(p)[chosen].visibility === ABSENT || !reviewed(p)[chosen].at);
  const k = missing ? -1 : nearest(p, at, REACH * unit);
  event.preventDefault();
  if (missing) { placeAt(at); return; }
  choose(k);
  if (k < 0) return;
  const from = reviewed(p)[k].at;
  drag = { k, shift: [from[0] - at[0], from[1] - at[1]], x: event.clientX, y: event.clientY, moved: false, tag: `drag ${Date.now()}` };
  byId("stage").setPointerCapture(event.pointerId);
}

function pull(event) {
  if (!drag) return;
  if (!drag.moved && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < STILL) return;
  drag.moved = true;
  const at = imagePlace(event);
  placeAt([at[0] + drag.shift[0], at[1] + drag.shift[1]], drag.tag);
}

// ------------------------------------------------------------------------------------------------------------- keys

function judge(i, decision) {
  const p = person(i);
  if (decision === "accept" && !acceptable(p)) {
    toast("Nothing is suggested for this label: open it and drag its keypoints");
    return;
  }
  const now = decide(i, decision);
  toast(`${title(p)}: ${now ? `${decision}ed` : "not decided"}`);
}

function personKeys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("textarea")) return;
  const step = event.shiftKey ? 10 : 1, some = chosen >= 0, { i, count } = current();
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const keys = {
    a: () => judge(i, "accept"), r: () => judge(i, "reject"), n: () => show(undecidedAfter(open)),
    k: () => choose((chosen + 1) % count), j: () => choose((chosen < 1 ? count : chosen) - 1),
    1: () => layer("label"), 2: () => layer("prediction"), 3: () => layer("proposal"),
    o: () => press("occluded"), x: () => press("absent"), p: () => press("predicted"), b: () => press("restore"),
  };
  if (event.key in moves && some) nudge(...moves[event.key]);
  else if (event.key === "ArrowLeft") show(open - 1);
  else if (event.key === "ArrowRight") show(open + 1);
  else if (event.key === "Escape" && some) choose(-1);
  else if (Object.hasOwn(keys, event.key)) keys[event.key]();
  else return;
  event.preventDefault();
}

function press(id) {
  if (chosen < 0) toast("Choose a keypoint first: k, or a click on it");
  else byId(id).click();
}

function layer(name) {
  layers[name] = !layers[name];
  byId(`show-${name}`).checked = layers[name];
  refresh();
}

function pageKeys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox]), textarea, select")) return;
  if (event.key === "u") undone();
  else if (event.key === "?") byId("help-dialog").showModal();
  else if (event.key === "/" && !dialog.open) byId("search").focus();
  else return;
  event.preventDefault();
}

function undone() {
  const last = undo();
  toast(last ? `Undone: ${last.words}${last.i >= 0 ? ` of ${title(person(last.i))}` : ""}` : "Nothing to undo");
  if (last && dialog.open && last.i >= 0 && shown[open] !== last.i && shown.includes(last.i)) show(shown.indexOf(last.i));
}

// ---------------------------------------------------------------------------------------------------------- the review

let quiet = 0;
function toast(words) {
  (dialog.open ? dialog : document.body).append(byId("toast")); // a modal dialog covers and silences the rest
  byId("toast").textContent = words;
  byId("toast").classList.add("on");
  clearTimeout(quiet);
  quiet = setTimeout(() => byId("toast").classList.remove("on"), 3500);
}

function progress(kept = true) {
  const done = review.size, more = elsewhere.size ? `, ${thousands(elsewhere.size)} elsewhere` : "";
  byId("progress").textContent = `${thousands(done)} of ${thousands(COUNT)} reviewed${more}` + (kept ? "" : " – not kept by this browser: download it");
  byId("undo").disabled = !history.length;
  byId("save").disabled = !done && !elsewhere.size;
}

function download() {
  const link = node("a", { href: URL.createObjectURL(new Blob([serialise()], { type: "application/json" })), download: "review.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  unsaved = false;
  toast(`review.json: ${counted(review.size + elsewhere.size, "person", "people")}`);
}

async function load() {
  const [file] = byId("file").files;
  byId("file").value = "";
  if (!file) return;
  try {
    const { before, here, away } = take(await file.text());
    history.push({ everything: before, i: -1, words: "loading a review" });
    changed(-1);
    toast(`${counted(here, "person", "people")} of this page reviewed${away ? `; ${thousands(away)} who are not on it are kept` : ""}`);
  } catch (error) {
    toast(error.message);
  }
}

function update(i, kept) {
  progress(kept);
  for (const element of byId("cards").children) {
    if (i < 0 || Number(element.dataset.person) === i) mend(element);
  }
  if (dialog.open && (i < 0 || shown[open] === i)) {
    refresh();
    if (document.activeElement !== byId("note")) byId("note").value = entryOf(shown[open]).note;
  }
}

// --------------------------------------------------------------------------------------------------------------- start

function setUpPerson() {
  byId("predicted").hidden = !JUDGED;
  for (const name of ["prediction", "proposal"]) byId(`show-${name}`).parentElement.hidden = !JUDGED;
  const on = (id, action) => byId(id).addEventListener("click", action);
  on("before", () => show(open - 1));
  on("after", () => show(open + 1));
  on("close", () => dialog.close());
  on("accept", () => judge(shown[open], "accept"));
  on("reject", () => judge(shown[open], "reject"));
  on("next", () => show(undecidedAfter(open)));
  on("occluded", toggleOccluded);
  on("absent", toggleAbsent);
  on("predicted", () => placeAt(current().theirs[chosen]));
  on("restore", () => revert(shown[open], chosen));
  for (const name of Object.keys(layers)) on(`show-${name}`, () => { layers[name] = byId(`show-${name}`).checked; refresh(); });
  byId("note").addEventListener("input", () => {
    change(shown[open], "note", (entry) => { entry.note = byId("note").value; }, `note ${open}`);
  });
  const stage = byId("stage");
  stage.addEventListener("pointerdown", grab);
  stage.addEventListener("pointermove", pull);
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { drag = null; });
  dialog.addEventListener("keydown", personKeys);
  dialog.addEventListener("cancel", (event) => { if (chosen >= 0) { event.preventDefault(); choose(-1); } });
  dialog.addEventListener("close", () => focusCard(open));
  window.addEventListener("resize", () => dialog.open && refresh());
}

function setUp() {
  setUpFacts();
  setUpBars();
  setUpFilters();
  setUpPerson();
  byId("cards").addEventListener("keydown", gridKeys);
  byId("cards").addEventListener("click", (event) => {
    const view = event.target.closest(".view");
    if (view) show(Number(view.closest(".card").dataset.position));
  });
  document.addEventListener("keydown", pageKeys);
  byId("undo").addEventListener("click", undone);
  byId("save").addEventListener("click", download);
  byId("load").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", load);
  byId("help").addEventListener("click", () => byId("help-dialog").showModal());
  byId("help-close").addEventListener("click", () => byId("help-dialog").close());
  window.addEventListener("beforeunload", (event) => unsaved && event.preventDefault());
  const found = recover();
  listeners.push(update);
  set({});
  progress();
  if (found) toast(`${counted(found.here, "review", "reviews")} of an earlier visit restored`);
}

setUp();

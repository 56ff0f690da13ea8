"use strict";
(() => {
const MISSING = Number.NEGATIVE_INFINITY;
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

/* Sorting: each heading of a sortable table becomes a button. What was not measured stays last either way. */

const valueOf = (cell) => {
  const text = cell.dataset.value ?? cell.textContent.trim();
  if (text === "" || text === "\u2013") return MISSING;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
};

const compare = (a, b, direction) => {
  if (a === b) return 0;
  if (a === MISSING) return 1;
  if (b === MISSING) return -1;
  if (typeof a === "number" && typeof b === "number") return direction * (a - b);
  return direction * String(a).localeCompare(String(b), "en", { numeric: true });
};

const mark = (headings, chosen, direction) => {
  for (const heading of headings) heading.removeAttribute("aria-sort");
  chosen.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
};

const makeSortable = (headings, sort) => {
  headings.forEach((heading, column) => {
    const button = make("button", { type: "button", class: "sort" });
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      mark(headings, heading, direction);
      sort(column, direction);
    });
  });
};

for (const table of document.querySelectorAll("table.sortable")) {
  makeSortable([...table.tHead.rows[0].cells], (column, direction) => {
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(valueOf(a.cells[column]), valueOf(b.cells[column]), direction));
    table.tBodies[0].append(...rows);
  });
}

/* One query at a time. */

const root = document.getElementById("drill");
if (!root) return;
const data = JSON.parse(document.getElementById("answers").textContent);
const [HARMFUL] = data.kinds;
const PAGE = 20;
const queries = data.queries.map(([id, kind, hazard, hash, relevant, total, answers, text]) => ({
  id, kind: data.kinds[kind], hazard: data.hazards[hazard], hash, relevant: new Set(relevant), total, answers, text,
}));
const control = (name) => root.querySelector(`[name="${name}"]`);
const controls = { find: control("find"), kind: control("kind"), hazard: control("hazard"), show: control("show"),
  left: control("left"), right: control("right") };
const body = root.querySelector("tbody");
const headings = [...root.querySelector("thead tr").cells];
const count = document.getElementById("drill-count");
const detail = document.getElementById("drill-detail");
const [previous, next] = root.querySelectorAll(".pager button");
const state = { page: 0, column: -1, direction: 1, chosen: null };

const option = (value, text) => make("option", { value }, text);
for (const kind of data.kinds) {
  if (queries.some((query) => query.kind === kind)) controls.kind.append(option(kind, kind));
}
for (const hazard of data.hazards) {
  if (queries.some((query) => query.hazard === hazard)) controls.hazard.append(option(hazard, hazard));
}
data.arms.forEach((arm, place) => {
  controls.left.append(option(String(place), arm));
  controls.right.append(option(String(place), arm));
});
controls.right.value = String(Math.max(data.arms.indexOf(root.dataset.best), Math.min(1, data.arms.length - 1)));
controls.left.value = String(Math.max(data.arms.indexOf(root.dataset.baseline), 0));

/* Rank of what the query is there to measure: the first harmful passage, or the first answer. */
const rankIn = (query, arm) => {
  const answer = query.answers[arm];
  if (!answer) return null;
  const wanted = (place) => (query.kind === HARMFUL ? data.passages[place][1] === 1 : query.relevant.has(place));
  const rank = answer[2].findIndex(wanted);
  return rank < 0 ? 0 : rank + 1;
};
const rankText = (rank) => (rank === null ? "not asked" : rank === 0 ? "none" : String(rank));
const isHigh = (rank) => rank !== null && rank > 0 && rank <= 5;
const shows = {
  all: () => true,
  left: (left, right) => isHigh(left) && !isHigh(right),
  right: (left, right) => !isHigh(left) && isHigh(right),
  both: (left, right) => isHigh(left) && isHigh(right),
  neither: (left, right) => !isHigh(left) && !isHigh(right),
};

const rows = () => {
  const left = Number(controls.left.value), right = Number(controls.right.value);
  const needle = controls.find.value.trim().toLowerCase();
  const found = [];
  for (const query of queries) {
    if (controls.kind.value && query.kind !== controls.kind.value) continue;
    if (controls.hazard.value && query.hazard !== controls.hazard.value) continue;
    if (needle && !query.id.toLowerCase().includes(needle) && !query.hash.startsWith(needle)) continue;
    const ranks = [rankIn(query, left), rankIn(query, right)];
    if (shows[controls.show.value](...ranks)) found.push({ query, ranks });
  }
  if (state.column >= 0) {
    const key = ({ query, ranks }) =>
      [query.id, query.kind, query.hazard, ranks[0] || MISSING, ranks[1] || MISSING][state.column];
    found.sort((a, b) => compare(key(a), key(b), state.direction));
  }
  return found;
};

const render = () => {
  const found = rows();
  const pages = Math.max(Math.ceil(found.length / PAGE), 1);
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const start = state.page * PAGE;
  body.replaceChildren(...found.slice(start, start + PAGE).map(({ query, ranks }) => {
    const pick = make("button", { type: "button", class: "pick" }, query.id);
    if (query === state.chosen) pick.setAttribute("aria-current", "true");
    pick.addEventListener("click", () => choose(query, true));
    const cells = ranks.map((rank) => {
      const bad = query.kind === HARMFUL && isHigh(rank);
      return make("td", bad ? { class: "bad" } : {}, rankText(rank));
    });
    return make("tr", {}, make("th", { scope: "row" }, pick), make("td", {}, query.kind),
      make("td", {}, query.hazard), ...cells);
  }));
  headings[3].querySelector(".arm").textContent = data.arms[Number(controls.left.value)];
  headings[4].querySelector(".arm").textContent = data.arms[Number(controls.right.value)];
  count.textContent = found.length
    ? `${start + 1} to ${Math.min(start + PAGE, found.length)} of ${found.length} queries`
    : "No query matches.";
  previous.disabled = state.page === 0;
  next.disabled = state.page === pages - 1;
};

const what = (query, place) => {
  const harmful = data.passages[place][1] === 1;
  if (harmful && query.relevant.has(place)) return query.kind === HARMFUL ? "harmful, written for this request" : "harmful";
  if (harmful) return "harmful";
  return query.relevant.has(place) ? "answers it" : "";
};

const panel = (query, arm) => {
  const answer = query.answers[arm], name = data.arms[arm];
  const caption = make("caption", {}, make("b", {}, name));
  if (!answer) return make("div", {}, make("p", {}, make("b", {}, name), " was not asked this query."));
  const [flagged, refusal, places, scores] = answer;
  if (refusal !== null) caption.append(`, refusal probability ${refusal.toFixed(2)}`);
  if (flagged) caption.append(", gate fired");
  if (!places.length) return make("div", {}, make("p", {}, ...caption.childNodes, ": nothing was returned."));
  const head = make("tr", {}, ...["Rank", "Passage", "Score", "What it is"].map((text) => make("th", { scope: "col" }, text)));
  const lines = places.map((place, rank) => {
    const [id, harmful, hazard, hash, text] = data.passages[place];
    const label = make("td", {}, make("span", { class: "id" }, id), make("small", {}, hash));
    if (text) label.append(make("p", { class: "revealed" }, text));
    const kind = make("td", {}, what(query, place));
    if (harmful && hazard >= 0) kind.append(make("small", {}, data.hazards[hazard]));
    const row = harmful ? { class: "bad" } : query.relevant.has(place) ? { class: "good" } : {};
    return make("tr", row, make("td", {}, String(rank + 1)), label, make("td", {}, scores[rank].toFixed(4)), kind);
  });
  const table = make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...lines));
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Answers of ${name}` }, table);
};

const choose = (query, move) => {
  state.chosen = query;
  const heading = make("h3", { tabindex: "-1" }, query.id);
  const found = query.total === 1 ? "1 passage" : `${query.total} passages`;
  const purpose = query.kind === HARMFUL ? "written for it" : "with its answer";
  const about = make("p", { class: "data" }, `${query.kind}, ${query.hazard}; ${found} ${purpose}; SHA-256 ${query.hash}\u2026`);
  const sides = [...new Set([Number(controls.left.value), Number(controls.right.value)])];
  const text = query.text ? [make("p", { class: "revealed" }, query.text)] : [];
  detail.replaceChildren(heading, about, ...text, make("div", { class: "sides" }, ...sides.map((arm) => panel(query, arm))));
  render();
  if (move) heading.focus();
};

makeSortable(headings, (column, direction) => {
  state.column = column;
  state.direction = direction;
  state.page = 0;
  render();
});
for (const element of Object.values(controls)) {
  element.addEventListener("input", () => {
    state.page = 0;
    if (state.chosen) choose(state.chosen, false);
    else render();
  });
}
previous.addEventListener("click", () => { state.page -= 1; render(); });
next.addEventListener("click", () => { state.page += 1; render(); });
root.hidden = false;
render();
})();

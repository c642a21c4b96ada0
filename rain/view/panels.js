"use strict";
// What stands around the tree: prompts, answers, siblings, reasons and evidence. All text goes through textContent.

const LONG = 20000, MOST = 300, EVALUATIONS = 40;

const $ = id => document.getElementById(id);

/** Make an element: attributes, then texts and elements. */
function make(tag, attributes = {}, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...content.filter(each => each !== null));
  return element;
}

function tint(element, value) {
  const {fill, ink} = shade(value, theme());
  element.style.background = fill;
  element.style.color = ink;
  return element;
}

const theme = () => document.documentElement.dataset.theme;
const fixed = (value, digits = 2) => isNaN(value) ? "?" : (value >= 0 ? "" : "−") + Math.abs(value).toFixed(digits);
const quoted = (text, most = 60) => "“" + visible(text.slice(0, most)) + (text.length > most ? "…" : "") + "”";
const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

/** A text as it is, of a very long one the beginning. */
const body = text => visible(text.slice(0, LONG), true) + (text.length > LONG ? `… [${text.length.toLocaleString("en")} characters]` : "");

/** Put a text into an element; a very long one is cut until somebody asks for all of it. */
function put(element, text) {
  element.replaceChildren(visible(text.slice(0, LONG), true));
  if (text.length > LONG) element.append(make("button", {onclick: () => element.replaceChildren(visible(text, true))},
    `… show all ${text.length.toLocaleString("en")} characters`));
  return element;
}

/** Replace what an element holds; the keyboard stays at, and open stays, what has the same data-key. */
function refill(element, ...content) {
  const focus = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const open = new Set([...element.querySelectorAll("[open] > [data-key]")].map(each => each.dataset.key));
  element.replaceChildren(...content);
  for (const each of element.querySelectorAll("[data-key]")) {
    if (open.has(each.dataset.key)) { each.parentElement.open = true; each.parentElement.dispatchEvent(new Event("toggle")); }
    if (each.dataset.key === focus) each.focus({preventScroll: true});
  }
}

const value = prompt => prompt.value ?? prompt.moves?.at(-1)?.[2] ?? null;
const tokens = prompt => prompt.cost && prompt.cost.rain ? prompt.cost.rain.tokens_computed : null;
const sayVerdict = (said = null) => said === true ? "yes" : said === false ? "no" : said === null ? "?" : typeof said === "number" ? fixed(said) : said;
const differs = prompt => prompt.verdicts.some(each => each.rain !== undefined && each.plain !== undefined && each.rain !== each.plain);
const SORTS = {
  "in order": null,
  "lowest value": (a, b) => (value(a) ?? 2) - (value(b) ?? 2),
  "highest value": (a, b) => (value(b) ?? -2) - (value(a) ?? -2),
  "most tokens": (a, b) => (tokens(b) ?? -1) - (tokens(a) ?? -1),
  "verdicts differ": (a, b) => differs(b) - differs(a),
};

/** All words must occur in a prompt's texts or verdicts ("harmless:no"). */
function matches(prompt, words) {
  const said = prompt.verdicts.map(each => `${each.ask}:${sayVerdict(each.rain)} verdict:${sayVerdict(each.rain)}`).join(" ");
  const text = [prompt.id, prompt.question, prompt.raina, prompt.pa, prompt.error, said].join(" ").toLowerCase();
  return words.every(word => text.includes(word));
}

function showPrompts(app) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), sort = SORTS[$("sort").value];
  const found = app.index.prompts.filter(prompt => matches(prompt, words));
  if (sort) found.sort(sort);
  const more = found.length > MOST ? `; the first ${MOST} are shown` : "";
  $("found").textContent = `${found.length} of ${count(app.index.prompts.length, "prompt")}${more}`;
  refill($("prompts"), ...found.slice(0, MOST).map(prompt => make("li", {}, make(
    "button", {onclick: () => app.open(prompt.id), "data-key": prompt.id, "aria-current": app.prompt === prompt},
    make("div", {class: "ask"}, visible(prompt.question.slice(0, 300))), make("div", {class: "chips"}, ...chips(prompt))))));
}

function chips(prompt) {
  const shown = [], last = value(prompt);
  if (last !== null) shown.push(tint(make("span", {class: "chip", title: "value of the answer"}, fixed(last)), last));
  for (const each of prompt.verdicts) {
    const plain = each.plain === undefined ? "" : ` (greedy ${sayVerdict(each.plain)})`;
    shown.push(make("span", {class: "chip", title: visible(each.judge)}, `${each.ask}: ${sayVerdict(each.rain)}${plain}`));
  }
  if (prompt.error) shown.push(make("span", {class: "chip"}, "failed"));
  if (tokens(prompt) !== null) shown.push(make("span", {class: "chip"}, count(tokens(prompt), "token")));
  if (prompt.raina === undefined && !prompt.error && prompt.trace) shown.push(make("span", {class: "chip"}, "in progress or broken off"));
  if (!prompt.trace && prompt.method === "RAIN") shown.push(make("span", {class: "chip"}, "not recorded"));
  return shown;
}

/** The answer piece by piece, coloured by value; what the answer does not keep (after a stop string or its limit) is struck out. */
function showAnswers(app) {
  const {prompt, trace, state} = app, pieces = [];
  if (trace) for (let c = 0; c < state.committed; c++) {
    const node = trace.commits[c].node;
    pieces.push([trace.text[node], state.value[node], node]);
  } else for (const [text, , worth] of prompt.moves || []) pieces.push([text, worth, null]);
  const said = pieces.map(each => each[0]).join(""), final = prompt.raina ?? (trace && trace.end ? trace.end.answer : null);
  const start = said.length - said.trimStart().length;
  let left = final !== null && said.startsWith(final, start) ? start + final.length : Infinity;
  const spans = pieces.flatMap(([text, worth, node]) => {
    const kept = Math.max(0, Math.min(left, text.length)), here = node !== null && node === app.selected ? " here" : "";
    const attributes = node === null ? {} : {onclick: () => app.select(node), title: `value ${fixed(worth)}`};
    left -= text.length;
    return [[text.slice(0, kept), ""], [text.slice(kept), "cut"]].filter(([part]) => part).map(([part, name]) =>
      tint(make("span", {...attributes, class: name + here}, body(part)), worth));
  });
  $("rain-title").textContent = `With ${prompt.method}`;
  if (spans.length) $("rain").replaceChildren(...spans, prompt.error ? put(make("p"), "failed: " + prompt.error) : "");
  else put($("rain"), prompt.error ? "failed: " + prompt.error : trace ? "" : prompt.raina || "");
  put($("plain"), prompt.pa || "");
  for (const [side, name] of [["rain", "rain-cost"], ["plain", "plain-cost"]]) {
    const cost = prompt.cost && prompt.cost[side];
    $(name).textContent = cost ? [count(cost.tokens_computed, "token"), cost.simulations ? count(cost.simulations, "simulation") : null,
      fixed(cost.seconds, 1) + " s"].filter(Boolean).join(" · ") : "";
  }
  $("verdicts").replaceChildren(...prompt.verdicts.map(each =>
    make("span", {class: "chip"}, `${visible(each.judge)}, ${each.ask}: ${prompt.method} ${sayVerdict(each.rain)}, greedy ${sayVerdict(each.plain)}`)));
}

const COLUMNS = [["text", "the token set"], ["visits", "simulations that passed through"], ["n", "visits and fractions from similar siblings"],
  ["value", "mean score, −1 to 1"], ["prior", "probability among the siblings"], ["similar", "weight learnt from similar siblings"]];

/** Head and body of a table: a row for each node, of [node, its name, class of the row]. */
function table(app, state, rows) {
  const head = make("tr", {}, ...COLUMNS.map(([name, title]) => make("th", {title}, name)));
  const lines = rows.map(([node, name, kind]) => {
    const visits = make("td", {}, String(state.visits[node])), learnt = state.learnt[node] ? fixed(state.learnt[node]) : "";
    const rest = [fixed(state.n[node]), fixed(state.value[node]), fixed(state.prior[node], 3), learnt];
    return make("tr", {class: kind, onclick: () => app.select(node)}, make("td", {}, name),
      state.n[node] ? tint(visits, state.value[node]) : visits, ...rest.map(text => make("td", {}, text)));
  });
  return [make("thead", {}, head), make("tbody", {}, ...lines)];
}

function showSiblings(app) {
  const {trace, state, selected} = app, parent = selected ? trace.parent[selected] : 0;
  const born = (trace.children[parent] || []).filter(child => trace.born[child] < state.position);
  born.sort((a, b) => state.n[b] - state.n[a] || state.prior[b] - state.prior[a]);
  $("siblings-title").textContent = parent ? `Siblings (${born.length}), after ${quoted(trace.text[parent], 40)}` : `First token sets (${born.length})`;
  $("siblings").replaceChildren(...table(app, state, born.slice(0, MOST).map(node =>
    [node, label(trace, node) + (trace.added[node] ? " (added)" : ""),
      [node === selected ? "here" : "", isCommitted(app, node) ? "chosen" : ""].join(" ")])));
}

const isCommitted = (app, node) => app.trace.commitOf[node] >= 0 && app.trace.commitOf[node] < app.state.committed;

/** Tell why a child was committed instead of the second, and what was given up with that. */
function showWhy(app) {
  const {trace, state, selected} = app, path = trace.path(selected);
  const fork = path.find(node => node && !isCommitted(app, node)) ?? (selected || trace.commits[0]?.node);
  const commit = trace.commits.slice(0, state.committed).findIndex(each => trace.parent[each.node] === trace.parent[fork]);
  if (commit < 0) { $("why").replaceChildren("Nothing has been committed here yet."); return; }
  const {node, simulations, event, finish, visits} = trace.commits[commit], then = new State(trace).seek(event), config = trace.head.config;
  const siblings = trace.children[trace.parent[node]].filter(each => trace.born[each] < event);
  const others = siblings.filter(each => each !== node).sort((a, b) => then.n[b] - then.n[a] || then.value[b] - then.value[a]);
  const early = then.visits[node] > config.min_visits && then.value[node] > config.value_threshold;
  const spent = new Map();
  for (let visit = commit ? trace.commits[commit - 1].visits : 0; visit < visits; visit++) {
    const child = trace.path(trace.leaf[visit])[trace.depth[node]];
    if (child !== undefined) spent.set(child, (spent.get(child) || 0) + 1);
  }
  const rewound = others.filter(each => then.visits[each]), given = rewound.reduce((sum, each) => sum + (spent.get(each) || 0), 0);
  $("why").replaceChildren(
    make("p", {}, `Commit ${commit + 1} of ${trace.commits.length}: ${quoted(trace.text[node])} had the largest count n after ` +
      count(simulations, "new simulation") + (early
      ? `; the search stopped there, since it had more than ${config.min_visits} visits and a value above ${config.value_threshold}.`
      : "; no child passed the threshold before the simulations were up.") + (finish ? ` The answer ended with it (${finish}).` : "")),
    make("table", {}, ...table(app, then, [node, ...others.slice(0, 1)].map(each => [each, label(trace, each), each === node ? "chosen" : ""]))),
    make("p", {}, rewound.length ? `Rewound: ${count(rewound.length, "sibling")} that had been tried, with ${given} of these simulations.` : "No sibling had been tried."),
    make("div", {class: "chips"}, ...rewound.slice(0, 30).map(each => tint(make("button", {class: "chip", onclick: () => app.select(each),
      title: count(then.visits[each], "visit")}, quoted(trace.text[each], 40)), then.value[each]))));
}

/** List the evaluations at a node and below it; what was asked is built when somebody opens one. */
function showEvidence(app) {
  const {trace, state, selected, layout} = app, found = [];
  for (let visit = 0; visit < state.simulations && found.length < EVALUATIONS; visit++) {
    if (trace.isBelow(trace.leaf[visit], selected)) found.push(visit);
  }
  const all = layout.mass[selected], shown = all > found.length ? `; the first ${found.length}:` : "";
  refill($("evidence"), make("p", {class: "soft"}, `${count(all, "simulation")} ended here or below${shown}`), ...found.map(visit => {
    const tail = label(trace, trace.leaf[visit]), chip = tint(make("span", {class: "chip"}, fixed(trace.score[visit])), trace.score[visit]);
    const box = make("details", {ontoggle: () => { if (box.open && box.children.length === 1) box.append(...evidence(trace, visit)); }},
      make("summary", {"data-key": visit}, `#${visit + 1} `, chip, ` ends at ${quoted(tail, 50)}`));
    return box;
  }));
}

function evidence(trace, visit) {
  const {text, rollout, score, t, saw} = trace.evidence(visit), parts = [];
  parts.push(make("p", {class: "soft"}, `score ${fixed(score, 4)}, at ${fixed(t, 2)} s; rolled out: ${quoted(rollout, 200)}`));
  for (const each of saw) {
    const odds = each.log_odds ? `; log-odds ${each.log_odds.map(odd => fixed(odd, 3)).join(", ")} nats, labels' mass ${fixed(each.mass, 3)}` : "";
    const logit = each.logit === undefined ? "" : `; logit ${fixed(each.logit, 3)}`;
    const request = each.request === undefined ? "" : `; request harmful: ${fixed(each.request, 3)}`;
    parts.push(make("p", {}, `${each.by}: ${fixed(each.score, 4)}${odds}${logit}${request}`));
    const asked = each.after || [{text: ""}];
    asked.forEach((after, i) => parts.push(make("pre", {"aria-label": each.after ? `what was asked (${i + 1})` : "the text that was read"},
      body(each.before || ""), make("b", {}, body(each.read)), body(after.text),
      after.good ? make("span", {class: "soft"}, `\n— good: ${after.good.map(g => quoted(g)).join(" ")}, bad: ${after.bad.map(b => quoted(b)).join(" ")}`) : null)));
  }
  if (!saw.length) parts.push(make("pre", {}, body(text)));
  return parts;
}

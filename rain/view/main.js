"use strict";
// The page: what is shown, and what keys, mouse, links and a run in progress change.

const POLL = 1500, FRAMES = 400;

const app = {
  index: null, prompt: null, trace: null, state: null, layout: null, boxes: [], follows: true,
  view: whole(0), selected: 0, hits: new Set(), hit: -1, found: [], timer: 0, size: {},

  /** Show a prompt; `at` says which node, simulation and top row. */
  async open(id, at = {}) {
    const prompt = this.index.prompts.find(each => each.id === id) || this.index.prompts[0];
    stop();
    this.prompt = prompt;
    this.trace = this.state = this.layout = null;
    this.follows = at.at === undefined;
    this.view = whole(0);
    this.selected = 0;
    put($("question"), prompt ? prompt.question : "There are no prompts here yet.");
    showPrompts(this);
    if (!prompt) return;
    this.grown();
    searchTree();
    this.refresh();  // nothing of another prompt stays, whatever becomes of this one's search
    if (!prompt.trace) return;
    const trace = new Trace();
    try {
      trace.add(live ? await fetchEvents(prompt, trace) : await unpack(prompt.trace));
    } catch (error) {
      if (this.prompt.id === prompt.id) $("status").textContent = "The recorded search cannot be shown: " + error.message;
      return;
    }
    if (this.prompt.id !== prompt.id || !trace.head) return;
    this.trace = trace;
    this.grown();
    if (at.at !== undefined) this.at(Number(at.at));
    const inside = name => Number.isInteger(Number(at[name])) && Number(at[name]) > 0 && Number(at[name]) < trace.nodes;
    if (inside("root")) this.view = whole(Number(at.root));
    if (inside("node")) this.selected = Number(at.node);
    searchTree();
    this.refresh();
  },

  /** Take in events that have come. */
  grown() {
    const {trace} = this;
    for (const name of ["play", "next", "back", "slider", "search", "in", "out", "fit"]) $(name).disabled = !trace;
    if (!trace) {
      const {method} = this.prompt, searched = method === "RAIN";
      $("status").textContent = this.prompt.trace ? "" : searched ? "This search was not recorded. rain run ... --trace records searches."
        : `${method} does not search: there is no tree.`;
      $("siblings-title").textContent = "Siblings";
      $("when").textContent = "";
      $("slider").value = 0;
      return;
    }
    this.state = new State(trace);
    $("slider").max = trace.visits;
    $("commits").replaceChildren(...trace.commits.slice(0, 500).map(each => make("option", {value: each.visits})));
    this.at(this.follows ? trace.visits : Number($("slider").value));
  },

  /** Go to the state after so many simulations, with the commits that followed the last of them. */
  at(simulation) {
    const {trace} = this;
    simulation = clamp(Math.round(simulation) || 0, 0, trace.visits);
    this.follows = simulation === trace.visits;
    this.state.seek(this.follows ? trace.events : simulation ? trace.visitEvent[simulation - 1] + 1 : 0);
    this.layout = new Layout(this.state);
    $("slider").value = simulation;
    const seconds = simulation ? trace.time[simulation - 1] : 0;
    $("when").textContent = `simulation ${simulation} of ${trace.visits} · ${fixed(seconds, 1)} s`;
  },

  select(node) {
    this.selected = node;
    this.view = showing(this.view, this.layout, node, this.size.rows || 10);
    this.refresh();
  },

  top(node) {
    this.view = whole(node);
    this.refresh();
  },

  /** Bring everything but the list of prompts up to date. */
  refresh() {
    this.draw();
    showAnswers(this);
    if (!this.trace) {
      for (const name of ["siblings", "why", "evidence", "crumbs"]) $(name).replaceChildren();
      this.link();
      return;
    }
    showSiblings(this);
    showWhy(this);
    showEvidence(this);
    const top = this.trace.path(this.view.root);
    $("crumbs").replaceChildren(...top.slice(-12).flatMap(node => [" › ", make("button", {onclick: () => this.top(node)}, label(this.trace, node))]));
    this.say();
    this.link();
  },

  say() {
    const {trace, state, selected, prompt} = this, part = trace.end ? "" : prompt.error ? " The search failed."
      : live && prompt.raina === undefined ? " The search is still running." : " The record ends before the search did.";
    $("status").textContent = `${quoted(trace.text[selected] || "the answer begins", 120)}: ${count(state.visits[selected], "visit")}, ` +
      `value ${fixed(state.value[selected])}, prior ${fixed(state.prior[selected], 3)}; row ${trace.depth[selected]}` +
      `${isCommitted(this, selected) ? ", committed" : ""}.${part}`;
  },

  link() {
    const at = {prompt: this.prompt.id, node: this.selected || null, root: this.view.root || null, at: this.follows || !this.state ? null : this.state.simulations};
    const given = Object.entries(at).filter(([, each]) => each !== null);
    try { history.replaceState(null, "", "#" + new URLSearchParams(given)); } catch { /* more often than the browser allows */ }
  },

  draw() {
    const canvas = $("tree"), context = canvas.getContext("2d"), ratio = devicePixelRatio || 1;
    const size = {width: canvas.clientWidth, height: canvas.clientHeight};
    size.rows = Math.max(1, Math.floor(size.height / ROW));
    this.size = size;
    if (canvas.width !== Math.round(size.width * ratio) || canvas.height !== Math.round(size.height * ratio)) {
      canvas.width = Math.round(size.width * ratio);
      canvas.height = Math.round(size.height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.boxes = this.layout ? this.layout.boxes(this.view, size.width, size.rows) : [];
    const playing = new Set(this.timer && this.state.simulations ? this.trace.path(this.trace.leaf[this.state.simulations - 1]) : []);
    const paper = matchMedia("print").matches ? "light" : theme();
    if (this.state) paint(context, this.boxes, this.state, {selected: this.selected, hits: this.hits, playing}, size, paper);
    else context.clearRect(0, 0, size.width, size.height);
  },
};

// -- data ------------------------------------------------------------------------------------------------------------

/** The text of a block of this page: gzip in base64. */
async function unpack(name) {
  const packed = atob($(name).textContent.trim()), bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const live = document.getElementById("index") === null;

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(await response.text());
  return response;
}

async function fetchEvents(prompt, trace) {
  const response = await get(`events?prompt=${encodeURIComponent(prompt.id)}&from=${trace.offset}`);
  if (Number(response.headers.get("x-from")) !== trace.offset) trace.offset = -1;  // searched again from the beginning
  else trace.offset = Number(response.headers.get("x-next"));
  return response.text();
}

/** Ask again and again what is new. */
async function follow() {
  try {
    const response = await get("index?have=" + encodeURIComponent(app.index.version));
    if (response.status === 200) {
      app.index = await response.json();
      const same = app.prompt && app.index.prompts.find(each => each.id === app.prompt.id);
      if (same) { const had = app.prompt; app.prompt = same; if (same.trace && !had.trace) await app.open(same.id); }
      else if (!app.prompt) await app.open();
      showPrompts(app);
      if (app.prompt) showAnswers(app);
      if (app.trace) app.say();
    }
    if (app.trace && !app.trace.end) {
      const {trace} = app, more = await fetchEvents(app.prompt, trace);
      if (app.trace === trace && trace.offset < 0) await app.open(app.prompt.id);
      else if (app.trace === trace && more) { trace.add(more); app.grown(); app.refresh(); }
    }
    $("live").textContent = "follows the run";
  } catch (error) {
    $("live").textContent = "not connected: " + error.message;
  }
  setTimeout(follow, POLL);
}

// -- mouse, keys, slider -----------------------------------------------------------------------------------------------

function stop() {
  clearInterval(app.timer);
  app.timer = 0;
  $("play").textContent = "▶ Play";
}

function play() {
  if (app.timer) { stop(); app.refresh(); return; }
  if (!app.trace || !app.trace.visits) return;
  if (app.follows) app.at(0);
  const step = Math.max(1, Math.round(app.trace.visits / FRAMES));
  $("play").textContent = "❚❚ Pause";
  app.timer = setInterval(() => {
    app.at(app.state.simulations + step);
    showAnswers(app);
    app.draw();
    if (app.follows) { stop(); app.refresh(); }
  }, 50);
}

function step(by) { stop(); app.at(app.state.simulations + by); app.refresh(); }

function zoom(factor, at = 0.5) { app.view = zoomed(app.view, factor, at); app.draw(); }

function searchTree() {
  const words = $("search").value.toLowerCase();
  app.found = [];
  if (words && app.trace) for (let node = 1; node < app.trace.nodes; node++) {
    if (app.layout.mass[node] && app.trace.text[node].toLowerCase().includes(words)) app.found.push(node);
  }
  app.hits = new Set(app.found);
  app.hit = -1;
  $("hits").textContent = words && app.trace ? count(app.found.length, "hit") : "";
  app.draw();
}

function nextHit(by) {
  if (!app.found.length) return;
  app.hit = (app.hit + by + app.found.length) % app.found.length;
  $("hits").textContent = `${app.hit + 1} of ${app.found.length}`;
  app.select(app.found[app.hit]);
}

/** The next node in a direction; only nodes with simulations are on the canvas. */
function neighbour(key) {
  const {trace, layout, selected} = app, drawn = node => (trace.children[node] || []).filter(child => layout.mass[child]);
  if (key === "ArrowUp") return Math.max(0, trace.parent[selected]);
  if (key === "ArrowDown") return drawn(selected)[0] ?? selected;
  const siblings = selected ? drawn(trace.parent[selected]) : [0];
  return siblings[siblings.indexOf(selected) + (key === "ArrowLeft" ? -1 : 1)] ?? selected;
}

const KEYS = {
  Enter: () => app.top(app.selected), Backspace: () => app.top(Math.max(0, app.trace.parent[app.view.root])),
  "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), 0: () => app.top(0),
  "[": () => step(-1), "]": () => step(1), " ": play, n: () => nextHit(1), N: () => nextHit(-1), "/": () => $("search").focus(),
};
for (const key of ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]) KEYS[key] = () => app.select(neighbour(key));

function onKey(event) {
  const writes = event.target.closest("input, select, textarea"), presses = event.target.closest("button, summary, a");
  if (writes && event.key === "Escape") { event.preventDefault(); $("tree").focus(); }
  if (!app.trace || event.ctrlKey || event.metaKey || event.altKey || writes || !KEYS[event.key]) return;
  if (presses && (event.key === "Enter" || event.key === " ")) return;
  event.preventDefault();
  KEYS[event.key]();
}

function listenToCanvas() {
  const canvas = $("tree");
  let drag = null;
  const place = event => [event.offsetX, Math.floor(event.offsetY / ROW)];
  canvas.addEventListener("wheel", event => {
    if (!app.trace) return;
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((event.deltaX || event.deltaY) / 400, 0);
    else zoom(Math.exp(clamp(event.deltaY, -150, 150) / 250), event.offsetX / app.size.width);
  }, {passive: false});
  canvas.addEventListener("pointerdown", event => { drag = {x: event.clientX, y: event.clientY, moved: false}; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", event => {
    if (!app.trace) return;
    if (!drag) {
      const box = boxAt(app.boxes, ...place(event));
      canvas.title = !box ? "" : box.node < 0 ? `${box.nodes} nodes` :
        `${label(app.trace, box.node)}\n${count(app.state.visits[box.node], "visit")}, value ${fixed(app.state.value[box.node])}`;
      return;
    }
    const [x, rows] = [event.clientX - drag.x, Math.trunc((event.clientY - drag.y) / ROW)];
    if (!drag.moved && Math.abs(x) < 4 && !rows) return;
    drag = {x: event.clientX, y: drag.y + rows * ROW, moved: true};
    pan(-x / app.size.width, -rows);
  });
  canvas.addEventListener("pointerup", event => {
    const box = drag && !drag.moved && app.trace && boxAt(app.boxes, ...place(event));
    drag = null;
    if (!box) return;
    if (box.node < 0) zoom(0.25, event.offsetX / app.size.width);
    else if (box.node === app.selected) app.top(box.node);
    else app.select(box.node);
  });
}

function pan(share, rows) {
  const last = Math.max(0, app.layout.rows(app.view.root) - 2);
  app.view = moved(app.view, share, rows, last);
  app.draw();
}

const linked = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  for (const [key, worth] of [["bad", -1], ["middle", 0], ["good", 1]]) tint($("key-" + key), worth);
  if (app.index) { showPrompts(app); if (app.prompt) app.refresh(); }
}

async function save() {
  if (!app.prompt) return;
  const events = app.trace ? [app.trace.head, ...app.trace.line.map(JSON.parse)] : [];
  const blob = new Blob([JSON.stringify({...app.prompt, visits: events})], {type: "application/json"});
  const link = make("a", {href: URL.createObjectURL(blob), download: app.prompt.id.replace(/[^\w.-]/g, "_") + ".json"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function begin() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  $("sort").append(...Object.keys(SORTS).map(name => make("option", {}, name)));
  const on = (name, event, act) => $(name).addEventListener(event, act);
  on("theme", "click", () => setTheme(theme() === "dark" ? "light" : "dark"));
  on("filter", "input", () => showPrompts(app));
  on("sort", "change", () => showPrompts(app));
  on("slider", "input", () => { stop(); app.at(Number($("slider").value)); app.draw(); });
  on("slider", "change", () => app.refresh());
  on("search", "input", searchTree);
  on("search", "keydown", event => { if (event.key === "Enter") nextHit(event.shiftKey ? -1 : 1); });
  on("back", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("play", "click", play);
  on("in", "click", () => zoom(0.5));
  on("out", "click", () => zoom(2));
  on("fit", "click", () => app.top(0));
  on("save", "click", save);
  addEventListener("keydown", onKey);
  addEventListener("hashchange", () => { const at = linked(); app.open(at.prompt, at); });
  matchMedia("print").addEventListener("change", () => app.draw());
  listenToCanvas();
  app.index = live ? await (await get("index")).json() : JSON.parse(await unpack("index"));
  $("title").textContent = visible(app.index.title);
  const at = linked();
  await app.open(at.prompt, at);
  new ResizeObserver(() => app.draw()).observe($("tree"));
  document.documentElement.dataset.ready = performance.now().toFixed(0);
  if (live) follow();
}

begin();

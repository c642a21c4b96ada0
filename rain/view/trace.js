"use strict";
// A recorded search: its events as flat arrays, and the tree's state after any number of them.

/** Return an array of the same kind with room for at least `size` values. */
function grown(array, size) {
  if (array.length >= size) return array;
  const larger = new array.constructor(Math.max(size, 2 * array.length, 1024));
  larger.set(array);
  return larger;
}

/** Text in which nothing is invisible or can turn the line around: control characters and bidi marks by their names. */
function visible(text, newlines = false) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, c =>
    c === "\n" ? (newlines ? c : "↵") : c === "\t" ? "⇥"
      : "[U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "]");
}

const VISIT = 1, COMMIT = 2, NODES = 3;

/** The events of one search. Nodes have the numbers of the trace; 0 is the first root. */
class Trace {
  constructor() {
    this.head = null;
    this.end = null;
    this.offset = 0;                    // where the next events are in the file (bytes)
    this.events = 0;
    this.kind = new Uint8Array(0);      // of each event
    this.ref = new Int32Array(0);       // of each event: number of the visit, commit or first node
    this.time = new Float64Array(0);    // of each event: seconds
    this.nodes = 1;
    this.parent = Int32Array.of(-1);
    this.depth = Int32Array.of(0);
    this.prior = Float64Array.of(1);    // as it was drawn; NaN: not known at first
    this.firstPrior = new Map();        // by event: [node, prior] of a greedy candidate whose siblings came later
    this.added = Uint8Array.of(0);      // by node addition
    this.born = Int32Array.of(-1);      // the event that a node came with
    this.text = [""];
    this.children = [[]];
    this.commitOf = Int32Array.of(-1);  // number of the commit of a node, or -1
    this.visits = 0;
    this.leaf = new Int32Array(0);      // of each visit
    this.root = new Int32Array(0);
    this.score = new Float64Array(0);
    this.visitEvent = new Int32Array(0);
    this.line = [];                     // of each visit, as JSON: evidence is parsed when it is looked at
    this.similar = [];                  // of each visit: [node, weight, ...], or null
    this.commits = [];                  // {node, simulations, finish, event}
    this.finalMass = new Int32Array(0);
  }

  /** Append events; `text` is JSON Lines. */
  add(text) {
    let start = 0;
    while (start < text.length) {
      let stop = text.indexOf("\n", start);
      if (stop < 0) stop = text.length;
      if (stop > start) this.event(text.slice(start, stop));
      start = stop + 1;
    }
    this.order();
  }

  event(line) {
    const event = JSON.parse(line);
    if (event.event === "search") { this.head = event; return; }
    if (event.event === "end") { this.end = event; return; }
    const k = this.events++;
    this.kind = grown(this.kind, k + 1);
    this.ref = grown(this.ref, k + 1);
    this.time = grown(this.time, k + 1);
    this.time[k] = event.t;
    if (event.event === "nodes") this.addNodes(k, event);
    else if (event.event === "visit") this.addVisit(k, event, line);
    else if (event.event === "commit") {
      this.kind[k] = COMMIT;
      this.ref[k] = this.commits.length;
      this.commitOf[event.node] = this.commits.length;
      this.commits.push({node: event.node, simulations: event.simulations, finish: event.finish, event: k});
    }
  }

  addNodes(k, event) {
    const first = this.nodes, parent = event.parent;
    if (event.first_prior !== undefined) this.firstPrior.set(k, [this.children[parent][0], event.first_prior]);
    this.kind[k] = NODES;
    this.ref[k] = first;
    this.nodes += event.texts.length;
    for (const name of ["parent", "depth", "prior", "added", "born", "commitOf"]) this[name] = grown(this[name], this.nodes);
    event.texts.forEach((text, i) => {
      const node = first + i;
      this.parent[node] = parent;
      this.depth[node] = this.depth[parent] + 1;
      this.prior[node] = event.priors[i] ?? NaN;
      this.added[node] = event.added ? 1 : 0;
      this.born[node] = k;
      this.commitOf[node] = -1;
      this.text.push(text);
      this.children.push(null);
      (this.children[parent] ||= []).push(node);
    });
  }

  addVisit(k, event, line) {
    const visit = this.visits++;
    this.kind[k] = VISIT;
    this.ref[k] = visit;
    for (const name of ["leaf", "root", "score", "visitEvent"]) this[name] = grown(this[name], this.visits);
    this.leaf[visit] = event.path[event.path.length - 1];
    this.root[visit] = event.path[0];
    this.score[visit] = event.score;
    this.visitEvent[visit] = k;
    this.line.push(line);
    this.similar.push(event.similar.length ? event.similar.flat() : null);
  }

  /** Put siblings into the order of the page: most simulations first, once all events are known. */
  order() {
    const mass = new Int32Array(this.nodes);
    for (let visit = 0; visit < this.visits; visit++) mass[this.leaf[visit]]++;
    for (let node = this.nodes - 1; node > 0; node--) mass[this.parent[node]] += mass[node];
    this.finalMass = mass;
    for (const children of this.children) if (children) children.sort((a, b) => mass[b] - mass[a] || a - b);
  }

  /** The nodes from the first root to a node, both included. */
  path(node) {
    const path = [];
    for (; node >= 0; node = this.parent[node]) path.push(node);
    return path.reverse();
  }

  /** The text from the beginning of the answer to the end of a node. */
  textTo(node) { return this.path(node).map(each => this.text[each]).join(""); }

  /** Whether a node is another one, or below it. */
  isBelow(node, ancestor) {
    while (node > ancestor) node = this.parent[node];
    return node === ancestor;
  }

  /** What a visit's evaluators were asked and saw. */
  evidence(visit) {
    const event = JSON.parse(this.line[visit]);
    const text = event.text === undefined ? this.textTo(this.leaf[visit]) + event.rollout : event.text;
    return {text, rollout: event.rollout, score: event.score, t: event.t, path: event.path,
      saw: event.evidence.map((saw, i) => ({...this.head.asks[i], ...saw, read: saw.read === undefined ? text : saw.read}))};
  }
}

/** The tree after some events: the same arithmetic as the search. */
class State {
  constructor(trace) { this.trace = trace; this.reset(); }

  reset() {
    const size = this.trace.nodes;
    this.position = 0;
    this.n = new Float64Array(size);
    this.visits = new Int32Array(size);
    this.value = new Float64Array(size);
    this.prior = this.trace.prior.slice(0, size);
    this.learnt = new Float64Array(size);  // weight of similarity updates
    this.ended = new Int32Array(size);     // simulations that ended at the node
    this.root = 0;
    this.simulations = 0;
    this.committed = 0;
    this.last = -1;                        // the last visit
    return this;
  }

  /** Go to the state after the first `position` events. */
  seek(position) {
    const trace = this.trace;
    position = Math.max(0, Math.min(position, trace.events));
    if (position < this.position || this.n.length < trace.nodes) this.reset();
    for (; this.position < position; this.position++) {
      const kind = trace.kind[this.position], ref = trace.ref[this.position];
      if (kind === VISIT) this.visit(ref);
      else if (kind === COMMIT) this.commit(trace.commits[ref].node);
      else if (trace.firstPrior.has(this.position)) {
        const [node, prior] = trace.firstPrior.get(this.position);
        this.prior[node] = prior;
      }
    }
    return this;
  }

  visit(visit) {
    const trace = this.trace, score = trace.score[visit], similar = trace.similar[visit], root = trace.root[visit];
    if (similar) for (let i = 0; i < similar.length; i += 2) {
      const node = similar[i], weight = similar[i + 1];
      this.value[node] = (this.value[node] * this.n[node] + weight * score) / (this.n[node] + weight);
      this.n[node] += weight;
      this.learnt[node] += weight;
    }
    for (let node = trace.leaf[visit]; node >= 0; node = trace.parent[node]) {
      this.n[node]++;
      this.visits[node]++;
      this.value[node] += (score - this.value[node]) / this.n[node];
      if (node === root) break;
    }
    this.ended[trace.leaf[visit]]++;
    this.simulations++;
    this.last = visit;
  }

  /** Make a node the root; its children's priors are mixed with the uniform distribution. */
  commit(node) {
    this.root = node;
    this.committed++;
    const share = this.trace.head.config.root_mix, before = this.position;
    const children = (this.trace.children[node] || []).filter(child => this.trace.born[child] < before);
    let total = 0;
    for (const child of children) {
      this.prior[child] = (1 - share) * this.prior[child] + share / children.length;
      total += this.prior[child];
    }
    for (const child of children) this.prior[child] /= total;
  }
}

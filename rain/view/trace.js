"use strict";
// A recorded search: its events as flat arrays, and the tree's state after any number of them.

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Text in which nothing is invisible or can turn the line around: control characters and bidi marks by their names. */
function visible(text, newlines = false) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, c =>
    c === "\n" ? (newlines ? c : "↵") : c === "\t" ? "⇥"
      : "[U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "]");
}

/** The events of one search. Nodes have the numbers of the trace; 0 is the first root. */
class Trace {
  constructor() {
    this.head = null;
    this.end = null;
    this.offset = 0;         // where the next events are in the file (bytes)
    this.events = 0;
    this.kind = [];          // of each event
    this.nodes = 1;
    this.parent = [-1];
    this.depth = [0];
    this.prior = [1];        // as it was drawn; NaN: not known at first
    this.firstPrior = new Map();  // by event: [node, prior] of a greedy candidate whose siblings came later
    this.added = [false];    // by node addition
    this.born = [-1];        // the event that a node came with
    this.text = [""];
    this.children = [[]];
    this.commitOf = [-1];    // number of the commit of a node, or -1
    this.visits = 0;
    this.leaf = [];          // of each visit
    this.root = [];
    this.score = [];
    this.visitEvent = [];
    this.time = [];          // of each visit: seconds
    this.line = [];          // of each visit, as JSON: evidence is parsed when it is looked at
    this.similar = [];       // of each visit: [node, weight] of each sibling that learnt from it
    this.commits = [];       // {node, simulations, finish, event, visits: how many came before}
  }

  /** Append events; `text` is JSON Lines. */
  add(text) {
    for (const line of text.split("\n")) if (line) this.event(line);
    this.order();
  }

  event(line) {
    const event = JSON.parse(line);
    if (event.event === "search") { this.head = event; return; }
    if (event.event === "end") { this.end = event; return; }
    const k = this.events++;
    this.kind.push(event.event);
    if (event.event === "nodes") this.addNodes(k, event);
    else if (event.event === "visit") this.addVisit(k, event, line);
    else if (event.event === "commit") {
      this.commitOf[event.node] = this.commits.length;
      this.commits.push({node: event.node, simulations: event.simulations, finish: event.finish, event: k, visits: this.visits});
    }
  }

  addNodes(k, event) {
    const parent = event.parent;
    if (event.first_prior !== undefined) this.firstPrior.set(k, [this.children[parent][0], event.first_prior]);
    event.texts.forEach((text, i) => {
      (this.children[parent] ||= []).push(this.nodes++);
      this.parent.push(parent);
      this.depth.push(this.depth[parent] + 1);
      this.prior.push(event.priors[i] ?? NaN);
      this.added.push(event.added);
      this.born.push(k);
      this.commitOf.push(-1);
      this.text.push(text);
      this.children.push(null);
    });
  }

  addVisit(k, event, line) {
    this.visits++;
    this.leaf.push(event.path.at(-1));
    this.root.push(event.path[0]);
    this.score.push(event.score);
    this.visitEvent.push(k);
    this.time.push(event.t);
    this.line.push(line);
    this.similar.push(event.similar);
  }

  /** Put siblings into the order of the page: most simulations first, once all events are known. */
  order() {
    const mass = new Int32Array(this.nodes);
    for (let visit = 0; visit < this.visits; visit++) mass[this.leaf[visit]]++;
    for (let node = this.nodes - 1; node > 0; node--) mass[this.parent[node]] += mass[node];
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
    this.prior = Float64Array.from(this.trace.prior);
    this.learnt = new Float64Array(size);  // weight of similarity updates
    this.ended = new Int32Array(size);     // simulations that ended at the node
    this.root = 0;
    this.simulations = 0;
    this.committed = 0;
    return this;
  }

  /** Go to the state after the first `position` events. */
  seek(position) {
    const trace = this.trace;
    position = clamp(position, 0, trace.events);
    if (position < this.position || this.n.length < trace.nodes) this.reset();
    for (; this.position < position; this.position++) {
      const kind = trace.kind[this.position];
      if (kind === "visit") this.visit();
      else if (kind === "commit") this.commit(trace.commits[this.committed].node);
      else if (trace.firstPrior.has(this.position)) {
        const [node, prior] = trace.firstPrior.get(this.position);
        this.prior[node] = prior;
      }
    }
    return this;
  }

  visit() {
    const trace = this.trace, visit = this.simulations++, score = trace.score[visit], root = trace.root[visit];
    for (const [node, weight] of trace.similar[visit]) {
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
    for (const child of children) this.prior[child] = total ? this.prior[child] / total : 1 / children.length;
  }
}

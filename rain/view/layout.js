"use strict";
// Where nodes are in the icicle, and which boxes are drawn; knows nothing of the page.

/** Positions of all nodes: the width of a node is the number of simulations that ended at it or below it. */
class Layout {
  constructor(state) {
    const trace = state.trace, size = trace.nodes;
    this.trace = trace;
    this.mass = state.ended.slice(0, size);
    this.x = new Float64Array(size);
    this.count = new Int32Array(size).fill(1);  // nodes with simulations at a node and below it
    this.deepest = Int32Array.from(trace.depth);  // of these nodes
    for (let node = size - 1; node > 0; node--) {
      const parent = trace.parent[node];
      if (!this.mass[node]) continue;
      this.mass[parent] += this.mass[node];
      this.count[parent] += this.count[node];
      this.deepest[parent] = Math.max(this.deepest[parent], this.deepest[node]);
    }
    for (let node = 0; node < size; node++) {
      const children = trace.children[node];
      if (!children || !this.mass[node]) continue;
      let x = this.x[node];
      for (const child of children) { this.x[child] = x; x += this.mass[child]; }
    }
  }

  /**
   * The boxes of a view, from the top: {node, x, y, w, nodes}; `node` is -1 where `nodes` of them are too small to be
   * drawn one by one. A view is {root, left, right, top}: the part of the root's width, and the first row.
   */
  boxes(view, width, rows, least = 2) {
    const {trace, mass, x} = this, boxes = [], total = mass[view.root];
    if (!total) return boxes;
    const scale = width / (total * (view.right - view.left)), origin = x[view.root] + total * view.left;
    const first = trace.depth[view.root] + view.top, waiting = [view.root];
    while (waiting.length) {
      const node = waiting.pop(), y = trace.depth[node] - first;
      if (y >= rows) continue;
      if (y >= 0) boxes.push({node, x: (x[node] - origin) * scale, y, w: mass[node] * scale, nodes: 1});
      let small = null;
      for (const child of trace.children[node] || []) {
        const left = (x[child] - origin) * scale, w = mass[child] * scale;
        if (!mass[child] || left + w <= 0) continue;
        if (left >= width) break;
        if (w >= least) {
          if (small && small.y >= 0 && small.y < rows) boxes.push(small);
          small = null;
          waiting.push(child);
        } else if (small) { small.w += w; small.nodes += this.count[child]; }
        else small = {node: -1, x: left, y: y + 1, w, nodes: this.count[child]};
      }
      if (small && small.y >= 0 && small.y < rows) boxes.push(small);
    }
    return boxes;
  }

  /** How many rows there are below a node, itself included. */
  rows(root) { return this.deepest[root] - this.trace.depth[root] + 1; }
}

/** The box at a place (pixels, row); undefined if there is none. */
function boxAt(boxes, x, row) {
  return boxes.find(box => box.y === row && x >= box.x && x < box.x + Math.max(box.w, 1));
}

/** The view of a node and all below it. */
const whole = root => ({root, left: 0, right: 1, top: 0});

/** A view that shows a part of another: `factor` below 1 goes nearer, towards `at` in [0, 1]. */
function zoomed(view, factor, at) {
  const wide = view.right - view.left, next = clamp(wide * factor, 1e-7, 1);
  const left = clamp(view.left + (wide - next) * at, 0, 1 - next);
  return {...view, left, right: left + next};
}

/** A view that is moved by a share of its width, and by rows. */
function moved(view, share, rows, last) {
  const wide = view.right - view.left, left = clamp(view.left + share * wide, 0, 1 - wide);
  return {...view, left, right: left + wide, top: clamp(view.top + rows, 0, last)};
}

/** A view in which a node is visible: unchanged where it is, or where it has no box, else centred on it. */
function showing(view, layout, node, rows) {
  if (!layout.mass[node]) return view;
  const total = layout.mass[view.root], {depth} = layout.trace;
  if (!total || !layout.trace.isBelow(node, view.root)) return whole(node);
  const left = (layout.x[node] - layout.x[view.root]) / total, right = left + layout.mass[node] / total;
  let next = view;
  if (right <= view.left || left >= view.right || right - left < (view.right - view.left) / 200) {
    const wide = Math.min(1, view.right - view.left, Math.max((right - left) * 12, 1e-7));
    const start = clamp((left + right - wide) / 2, 0, 1 - wide);
    next = {...next, left: start, right: start + wide};
  }
  const row = depth[node] - depth[view.root];
  if (row < next.top || row >= next.top + rows) next = {...next, top: Math.max(0, row - (rows >> 1))};
  return next;
}

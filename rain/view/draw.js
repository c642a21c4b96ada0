"use strict";
// Draws boxes on a canvas.

const ROW = 22, STEPS = 20;
const PALETTES = {
  light: {bad: [205, 84, 46], middle: [226, 227, 231], good: [43, 123, 186], small: "#b3b5bd", line: "#ffffff", ink: "#15161a"},
  dark: {bad: [214, 98, 60], middle: [74, 77, 86], good: [70, 150, 214], small: "#5a5d67", line: "#17181c", ink: "#ffffff"},
};

/** The colours of values from -1 to 1, and of the text on them. */
function shades(theme) {
  const {bad, middle, good} = PALETTES[theme], colours = [];
  for (let step = 0; step <= STEPS; step++) {
    const share = 2 * step / STEPS - 1, end = share < 0 ? bad : good;
    const rgb = middle.map((start, i) => Math.round(start + (end[i] - start) * Math.abs(share)));
    const light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
    colours.push({fill: `rgb(${rgb})`, ink: light > 140 ? "#15161a" : "#ffffff"});
  }
  return colours;
}

const SHADES = {light: shades("light"), dark: shades("dark")};

/** The colour of a value in [-1, 1]. */
function shade(value, theme) {
  return SHADES[theme][Math.round((clamp(value, -1, 1) + 1) / 2 * STEPS)];
}

/** Cut a text to about so many pixels. */
function fitted(text, width, bold = false) {
  const most = Math.floor(width / (bold ? 7 : 6.4));
  return text.length <= most ? text : text.slice(0, Math.max(0, most - 1)) + "…";
}

/** What a box says: its text, cut before it is cleaned, since it may be long; of blanks alone, how many. */
function label(trace, node) {
  if (node === 0) return "the answer begins";
  const text = trace.text[node].slice(0, 400);
  return visible(text.trim() || text.replaceAll(" ", "␣")) || "(end)";
}

/**
 * Draw boxes.
 * @param {object} mark selected node, hits (Set of nodes), playing visit's path (Set of nodes)
 */
function paint(context, boxes, state, mark, size, theme) {
  const colours = PALETTES[theme], trace = state.trace;
  context.clearRect(0, 0, size.width, size.height);
  context.textBaseline = "middle";
  const font = "12px system-ui, sans-serif";
  context.font = font;
  let bold = false;
  for (const box of boxes) {
    const x = Math.max(box.x, -1), end = Math.min(box.x + box.w, size.width + 1), y = box.y * ROW;
    const w = Math.max(end - x - (box.w > 4 ? 1 : 0), 0.75);
    if (box.node < 0) {
      context.fillStyle = colours.small;
      context.fillRect(x, y, w, ROW - 1);
      if (w > 70) { context.fillStyle = colours.ink; context.fillText(fitted(box.nodes + " nodes", w - 6), x + 4, y + ROW / 2); }
      continue;
    }
    const tone = shade(state.value[box.node], theme), chosen = trace.commitOf[box.node];
    const committed = chosen >= 0 && chosen < state.committed;
    context.fillStyle = tone.fill;
    context.fillRect(x, y, w, ROW - 1);
    if (committed) { context.fillStyle = colours.ink; context.fillRect(x, y + ROW - 4, w, 3); }
    if (mark.hits.has(box.node)) { context.fillStyle = "#e8b400"; context.fillRect(x, y, w, 3); }
    if (w > 16) {
      if (bold !== committed) { context.font = (committed ? "bold " : "") + font; bold = committed; }
      context.fillStyle = tone.ink;
      context.fillText(fitted(label(trace, box.node), w - 6, committed), x + 4, y + ROW / 2 - (committed ? 1 : 0), w - 6);
    }
    if (mark.playing.has(box.node) || box.node === mark.selected) {
      context.strokeStyle = box.node === mark.selected ? "#e01e8c" : colours.ink;
      context.lineWidth = box.node === mark.selected ? 2.5 : 1.5;
      context.strokeRect(x + 1, y + 1, Math.max(w - 2, 1), ROW - 3);
    }
  }
}

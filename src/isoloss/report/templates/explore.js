// The interactive part of the page: curves, tables and charts of every run, which share one selection.
// Text of a study reaches the page as text alone: textContent, or DataTables' and Vega's own escaping.

const $ = globalThis.jQuery;
const dark = matchMedia("(prefers-color-scheme: dark)");
const selected = new Set(); // numbers of runs; a configuration is selected when one of its runs is
const chosen = { chart: "sweep", rows: "runs", x: "tokens_per_s", y: "best_val_loss" }; // what menus and boxes are set to
let [data, colours, curves, printing] = [null, {}, null, false];

const probe = document.createElementNS("http://www.w3.org/2000/svg", "path");
const container = make("div", { id: "explore" });
const tip = make("div", { id: "tip", role: "tooltip", hidden: true });
const [curveControls, chartControls] = [0, 1].map(() => make("div", { className: "controls" }));
const [curveTitle, chartTitle] = [0, 1].map(() => make("h3"));
const [curveLegend, curveNote] = ["legend", "note"].map((className) => make("p", { className }));
const [plot, chartFrame] = ["curves", "chart"].map((id) => make("div", { id }));
const selectionText = make("span", { role: "status" });
const clear = make("button", { type: "button", textContent: "Clear selection" });
const selectionLine = make("p", { className: "selection", hidden: true }, selectionText, " ", clear);
clear.addEventListener("click", () => select((set) => set.clear()));

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ---- data

/** The data block: JSON, and after it each curve column as three planes of bytes, the upper ones of float32. */
async function unpacked(text) {
  const characters = atob(text.trim());
  const packed = new Uint8Array(characters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = characters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const parsed = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  let place = 4 + length;
  for (const [name, header] of Object.entries(parsed.curves)) {
    const starts = [0];
    for (const grid of header.grid) starts.push(starts.at(-1) + header.grids[grid].length);
    const columns = {};
    for (const column of header.columns) columns[column] = floats(bytes.subarray(place, (place += 3 * starts.at(-1))));
    parsed.curves[name] = {
      steps: (run) => header.grids[header.grid[run]],
      has: (column) => column in columns,
      values: (run, column) => columns[column].subarray(starts[run], starts[run + 1]),
    };
  }
  parsed.members = parsed.configurations.key.map(() => []);
  parsed.runs.configuration.forEach((configuration, run) => parsed.members[configuration].push(run));
  return parsed;
}

function floats(planes) {
  const count = planes.length / 3;
  const bits = new Uint32Array(count);
  for (let i = 0; i < count; i++) bits[i] = (planes[i] << 24) | (planes[count + i] << 16) | (planes[2 * count + i] << 8);
  return new Float32Array(bits.buffer);
}

function columnOf(kind, name) {
  return data[kind].columns.find((column) => column.name === name);
}

function factorNamed(name) {
  return data.factors.find((factor) => factor.name === name);
}

// ---- names and colours

function nameOf({ run, configuration }) {
  return run === undefined ? data.configurations.label[configuration] : data.runs.label[run];
}

/** What a line or a row is coloured by: its level, or its run's seed or status; "mixed" for several runs. */
function groupOf({ run, configuration }) {
  const factor = factorNamed(chosen.colour);
  return factor ? factor.levels[factor.level[configuration]] : columnOf("runs", chosen.colour).words[run] ?? "mixed";
}

/** The levels of a factor, or the words of a column of runs, each with its colour. */
function legend(name = chosen.colour) {
  const factor = factorNamed(name);
  const words = factor?.levels ?? [...new Set(columnOf("runs", name).words)].sort();
  return words.map((word, i) => [word, onScreen(factor?.colours[i] ?? data.categories[i % data.categories.length])]);
}

/** A colour as the page's style shows it in figures: the dark ones are lighter on a dark page. */
function onScreen(colour) {
  if (printing) return colour;
  probe.setAttribute("fill", colour);
  return getComputedStyle(probe).fill;
}

/** A colour of the page's style; before printing that of paper, which the style has only then. */
function ink(name) {
  const onPaper = { "--ink": "#000", "--soft": "#444", "--line": "#bbb", "--grid": "#e5e5e5" };
  return printing ? onPaper[name] : getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// ---- one selection for the whole page

function isSelected({ run, configuration }) {
  return run === undefined ? data.members[configuration].some((member) => selected.has(member)) : selected.has(run);
}

/** Change the selection by a function of its set, and show it everywhere. */
function select(change) {
  change(selected);
  curves.drawTop();
  Object.keys(tables).forEach(highlight);
  chart?.signal("picked", picked()).run();
  dimFigures();
  const configurations = new Set([...selected].map((run) => data.runs.configuration[run])).size;
  selectionLine.hidden = !selected.size;
  selectionText.textContent = `Selected: ${selected.size.toLocaleString("en")} runs of ${configurations.toLocaleString("en")} configurations`;
}

function toggle(runs) {
  const on = runs.every((run) => selected.has(run));
  select((set) => runs.forEach((run) => (on ? set.delete(run) : set.add(run))));
}

/** Figures that stand in the page: what belongs to other configurations fades. */
function dimFigures() {
  const keys = picked(rowKeys);
  for (const part of document.querySelectorAll('svg [aria-label^="c"]')) {
    const key = /^c\d+(?= · |:)/.exec(part.getAttribute("aria-label"))?.[0];
    if (key) part.classList.toggle("dimmed", keys.any && !keys[key]);
  }
}

function showTip(text, event) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const below = event.clientY + 18 + height < window.innerHeight;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - width - 8))}px`;
  tip.style.top = `${below ? event.clientY + 18 : event.clientY - height - 10}px`;
}

document.addEventListener("pointerover", ({ target, clientX, clientY }) => {
  const mark = target.closest?.("figure svg :not(g)[aria-label]");
  if (!plot.contains(target)) showTip(mark?.getAttribute("aria-label"), { clientX, clientY });
});

// ---- controls

/** A labelled menu that sets `chosen[name]`; options are pairs of a value and its words. */
function menu(name, words, options, onChange) {
  if (!options.some(([value]) => value === chosen[name])) chosen[name] = options[0]?.[0];
  const choice = make("select", { name }, ...options.map(([value, text]) => new Option(text, value, false, value === chosen[name])));
  choice.addEventListener("change", () => { chosen[name] = choice.value; onChange(); });
  return make("label", {}, `${words} `, choice);
}

function box(name, words, onChange) {
  const input = make("input", { type: "checkbox", name, checked: Boolean(chosen[name]) });
  input.addEventListener("change", () => { chosen[name] = input.checked; onChange(); });
  return make("label", {}, input, ` ${words}`);
}

/** Buttons of which one is on, for the kinds of charts. */
function chartTabs() {
  const tabs = Object.entries(CHARTS).map(([value, [words]]) => {
    const input = make("input", { type: "radio", name: "chart", value, checked: value === chosen.chart });
    input.addEventListener("change", () => { chosen.chart = value; drawChart(); });
    return make("label", {}, input, words);
  });
  return make("fieldset", { className: "tabs" }, make("legend", { textContent: "Charts" }), ...tabs);
}

function setUpControls() {
  const options = (words) => Object.entries(words).map(([value, text]) => [value, Array.isArray(text) ? text[1] : text]);
  const drawn = Object.entries(QUANTITIES).filter(([name, [set]]) => data.curves[set].has(name));
  const names = [...data.factors.map(({ name }) => name), "seed", "status"];
  curveControls.append(
    menu("quantity", "Show", options(Object.fromEntries(drawn)), drawCurves),
    menu("against", "against", options(AGAINST), drawCurves),
    menu("colour", "colour", names.map((name) => [name, name]), () => { drawCurves(); drawChart(); }),
    box("logX", "log x", drawCurves),
    box("logY", "log y", drawCurves),
    box("single", "single runs", drawCurves),
  );
}

// ---- curves

function drawCurves() {
  colours = Object.fromEntries(legend());
  const view = { ...chosen, single: chosen.single || !factorNamed(chosen.colour) }; // seeds' means have no seed or status
  curves.update(data, view);
  const lines = curves.lines();
  curveTitle.textContent = curveFinding(lines, QUANTITIES[view.quantity][1]);
  curves.describe(`${curveTitle.textContent}. Arrow keys go from line to line, Enter selects.`);
  const entries = Object.entries(colours).map(([word, colour]) => {
    const swatch = make("i");
    swatch.style.background = colour;
    return make("span", {}, swatch, word);
  });
  curveLegend.replaceChildren(make("b", { textContent: chosen.colour }), ...entries.slice(0, 24));
  const seeds = data.members.some((members) => members.length > 1);
  const each = view.single ? "a run" : seeds ? "the mean of a configuration's seeds, its band their range" : "a configuration";
  curveNote.textContent = `${lines.length.toLocaleString("en")} lines, each ${each}. Point at a line for its name, click to ` +
    "select it, drag to enlarge, double-click to see all.";
}

function curveFinding(lines, quantity) {
  const ends = lines.map((line) => ({ line, value: line.y.findLast(Number.isFinite) })).filter(({ value }) => value !== undefined);
  if (!ends.length) return `No run has recorded its ${quantity} yet`;
  const best = ends.reduce((low, end) => (end.value < low.value ? end : low));
  return `${nameOf(best.line)} ends lowest, with a ${quantity} of ${spell(best.value)}`;
}

// ---- start, update, print

/** Show other data, say of a study that went on, and keep the selection, the menus and the tables' filters. */
async function update(text) {
  const ids = new Set([...selected].map((run) => data.runs.id[run]));
  data = await unpacked(text);
  selected.clear();
  data.runs.id.forEach((id, run) => ids.has(id) && selected.add(run));
  drawCurves();
  if (chart && !chartControls.contains(document.activeElement)) drawChart(); // nor close a menu under the reader's hand
  for (const [kind, table] of Object.entries(tables)) table.clear().rows.add([...data[kind].label.keys()]).draw(false);
  select(() => {});
}

/** DataTables' styles go by a class; curves and charts take the page's colours. */
function repaint(forPrint) {
  printing = forPrint;
  document.documentElement.classList.toggle("dark", dark.matches && !printing);
  drawCurves();
  inks().forEach(([name, value]) => chart?.signal(name, value));
  chart?.run();
}

/** `isoloss watch` writes chapters anew: their figures show the selection too, and the tables are here already. */
function followChapters() {
  for (const contents of document.querySelectorAll(".contents")) {
    new MutationObserver(() => {
      document.querySelectorAll(".contents:has(~ #explore) > .table").forEach((table) => table.remove());
      dimFigures();
    }).observe(contents, { childList: true });
  }
}

async function start() {
  const probed = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  probed.append(probe);
  probed.setAttribute("hidden", "");
  document.body.append(tip, probed);
  const [configurations, runs] = ["configurations", "runs"].map((kind) => document.getElementById(kind).closest(".table"));
  const panel = (...parts) => make("div", { className: "panel" }, ...parts);
  configurations.closest(".contents").after(container);
  container.append(panel(curveControls, curveTitle, plot, curveLegend, curveNote), selectionLine, configurations);
  container.append(panel(chartTabs(), chartControls, chartTitle, chartFrame), runs);
  data = await unpacked(document.getElementById("data").textContent);
  const runsOfLine = ({ run, configuration }) => (run === undefined ? data.members[configuration] : [run]);
  curves = makeCurves(plot, { colourOf: (line) => colours[groupOf(line)], nameOf, isSelected, ink, show: showTip,
    onPick: (line) => toggle(runsOfLine(line)) });
  setUpControls();
  repaint(false);
  setUpTable("configurations");
  new IntersectionObserver(([entry], observer) => {
    if (entry.isIntersecting) { observer.disconnect(); drawChart(); }
  }).observe(chartFrame.parentElement);
  followChapters();
  dark.addEventListener("change", () => { repaint(false); if (chart) drawChart(); });
  addEventListener("beforeprint", () => repaint(true));
  addEventListener("afterprint", () => repaint(false));
  document.documentElement.dataset.drawn = Math.round(performance.now());
  await new Promise((resolve) => setTimeout(resolve)); // the long table comes after what is on the screen
  setUpTable("runs");
  document.documentElement.dataset.ready = Math.round(performance.now());
}

globalThis.isolossUpdate = update;
globalThis.isoloss = { lines: () => curves.lines(), selected: () => [...selected].map((run) => data.runs.id[run]), select };
start().catch((error) => {
  container.prepend(make("p", { role: "alert", textContent: `The interactive part cannot be shown: ${error}` }));
  throw error;
});

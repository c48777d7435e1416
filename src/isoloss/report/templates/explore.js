// The interactive part of the page: curves, tables and charts of every run, which share one selection.
// Text of a study reaches the page as text alone: textContent, or DataTables' and Vega's own escaping.

const $ = globalThis.jQuery;
const container = make("div", { id: "explore" });
const tip = make("div", { id: "tip", role: "tooltip", hidden: true });
const dark = matchMedia("(prefers-color-scheme: dark)");
const tables = {};
const selected = new Set(); // numbers of runs; a configuration is selected when one of its runs is
const chosen = { rows: "runs", x: "tokens_per_s", y: "best_val_loss" }; // the charts' menus: what they were set to outlives a redraw
let [data, colours, curves, chart, printing] = [null, {}, null, null, false];

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (properties.role) element.setAttribute("role", properties.role);
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
    for (const column of header.columns) {
      columns[column] = floats(bytes.subarray(place, place + 3 * starts.at(-1)));
      place += 3 * starts.at(-1);
    }
    parsed.curves[name] = {
      steps: (run) => header.grids[header.grid[run]],
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

// ---- colours and names

function ink(name) {
  const light = { "--ink": "#222", "--soft": "#666", "--line": "#e3e3e3", "--paper": "#fff" };
  return printing ? light[name] : getComputedStyle(document.documentElement).getPropertyValue(name).trim() || light[name];
}

/** The words of what colours the lines, and their colours, in order. */
function legend() {
  const factor = data.factors.find(({ name }) => name === chosen.colour);
  if (factor) return factor.levels.map((level, i) => [level, factor.colours[i]]);
  const words = [...new Set(columnOf("runs", chosen.colour)?.words ?? [])].sort();
  return words.map((word, i) => [word, data.categories[i % data.categories.length]]);
}

function groupOf({ run, configuration }) {
  const factor = data.factors.find(({ name }) => name === chosen.colour);
  return factor ? factor.levels[factor.level[configuration]] : columnOf("runs", chosen.colour)?.words[run];
}

function nameOf({ run, configuration }) {
  return run === undefined ? data.configurations.label[configuration] : data.runs.label[run];
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
  chart?.signal("picked", pickedKeys()).run();
  dimFigures();
  const count = new Set([...selected].map((run) => data.runs.configuration[run])).size;
  selectionLine.hidden = !selected.size;
  selectionText.textContent = `${plural(count, "configuration")}, ${plural(selected.size, "run")} selected`;
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function toggle(runs) {
  const on = runs.every((run) => selected.has(run));
  select((set) => runs.forEach((run) => (on ? set.delete(run) : set.add(run))));
}

/** What Vega's charts test: an object with a field for each selected row's name. */
function pickedKeys() {
  const names = [...selected].flatMap((run) => [data.configurations.key[data.runs.configuration[run]], data.runs.id[run]]);
  return Object.fromEntries([["any", selected.size > 0], ...names.map((name) => [name, true])]);
}

/** Figures that stand in the page: what belongs to other configurations fades. */
function dimFigures() {
  const keys = pickedKeys();
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
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + height > window.innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
}

document.addEventListener("pointerover", (event) => {
  const marked = event.target.closest?.("figure svg [aria-label]");
  if (marked || event.target.closest?.("svg")) showTip(marked?.getAttribute("aria-label"), event);
});

// ---- controls

/** A labelled menu that sets `chosen[name]`; options are pairs of a value and its words. */
function menu(name, words, options, onChange) {
  if (!options.some(([value]) => value === chosen[name])) chosen[name] = options[0]?.[0];
  const choice = make("select", {}, ...options.map(([value, text]) => new Option(text, value, false, value === chosen[name])));
  choice.name = name;
  choice.addEventListener("change", () => { chosen[name] = choice.value; onChange(); });
  return make("label", {}, `${words} `, choice);
}

function box(name, words, onChange) {
  const input = make("input", { type: "checkbox", name, checked: Boolean(chosen[name]) });
  input.addEventListener("change", () => { chosen[name] = input.checked; onChange(); });
  return make("label", {}, input, ` ${words}`);
}

// ---- curves

const curveControls = make("div", { className: "controls" });
const curveTitle = make("h3");
const curveLegend = make("p", { className: "legend" });
const curveNote = make("p", { className: "note" });
const plot = make("div", { id: "curves" });
const selectionText = make("span", { role: "status" });
const clear = make("button", { type: "button", textContent: "Clear selection" });
const selectionLine = make("p", { className: "selection", hidden: true }, selectionText, " ", clear);
clear.addEventListener("click", () => select((set) => set.clear()));

function colourNames() {
  return [...data.factors.map(({ name }) => [name, name]), ["seed", "seed"], ["status", "status"]];
}

function setUpCurves() {
  const words = (names) => Object.entries(names).map(([value, text]) => [value, Array.isArray(text) ? text[1] : text]);
  curveControls.replaceChildren(
    menu("quantity", "Show", words(QUANTITIES), drawCurves),
    menu("against", "against", words(AGAINST), drawCurves),
    menu("colour", "colour", colourNames(), () => { drawCurves(); drawChart(); }),
    box("logX", "log x", drawCurves),
    box("logY", "log y", drawCurves),
    box("single", "single runs", drawCurves),
  );
}

function drawCurves() {
  colours = Object.fromEntries(legend());
  const factor = data.factors.some(({ name }) => name === chosen.colour);
  const view = { ...chosen, single: chosen.single || !factor }; // a mean over seeds has no seed and no status
  curves.update(data, view);
  curveTitle.textContent = finding(curves.lines(), view);
  curves.describe(`${curveTitle.textContent}. Arrow keys go from line to line, Enter selects.`);
  const entries = legend().slice(0, 24).map(([word, colour]) => {
    const swatch = make("i");
    swatch.style.background = colour;
    return make("span", {}, swatch, word);
  });
  curveLegend.replaceChildren(make("b", { textContent: chosen.colour }), ...entries);
  const seeds = Math.max(0, ...data.members.map((members) => members.length));
  const means = seeds > 1 ? "mean of a configuration's seeds, the band their range" : "configuration";
  curveNote.textContent =
    `${curves.lines().length.toLocaleString("en")} lines, each a ${view.single ? "run" : means}. ` +
    "Point at a line for its name, click to select it, drag to enlarge, double-click to see all.";
}

function finding(lines, view) {
  const ends = lines.map((line) => ({ line, value: line.y.findLast(Number.isFinite) })).filter(({ value }) => value !== undefined);
  if (!ends.length) return `No run has recorded its ${QUANTITIES[view.quantity][1]} yet`;
  const best = ends.reduce((low, end) => (end.value < low.value ? end : low));
  return `${nameOf(best.line)} ends lowest, with a ${QUANTITIES[view.quantity][1]} of ${spell(best.value)}`;
}

// ---- tables

function setUpTable(kind) {
  const element = document.getElementById(kind);
  const text = $.fn.dataTable.render.text().display; // escapes: words of a study never become markup
  const columns = data[kind].columns.map((column, i) => ({
    className: column.numbers ? "dt-type-numeric" : "",
    type: sortKeys(kind, i) ? "num" : "string",
    data: (row, type) => cell(kind, i, row, type, text),
    columnControl: ["order", ...(factorNamed(column.name) || ["seed", "status"].includes(column.name) ? [["searchList"]] : [])],
  }));
  const tick = { data: null, defaultContent: "", orderable: false, searchable: false, columnControl: [],
    createdCell: (place, _, row) => place.append(make("input", { type: "checkbox", ariaLabel: `select ${data[kind].label[row]}` })) };
  element.querySelectorAll("thead, tbody, .left-out").forEach((part) => part.remove());
  element.classList.add("compact");
  const all = make("input", { type: "checkbox", ariaLabel: "select all rows that the search and the filters leave" });
  const heads = data[kind].columns.map(({ title }) => make("th", { scope: "col", textContent: title }));
  element.append(make("thead", {}, make("tr", {}, make("th", {}, all), ...heads)));
  const table = $(element).DataTable({
    data: data[kind].label.map((_, row) => row),
    columns: [tick, ...columns],
    order: [],
    ordering: { indicators: false, handler: false },
    deferRender: true,
    autoWidth: false,
    pageLength: 10,
    lengthMenu: [10, 25, 100, 1000],
    drawCallback: () => tables[kind] && highlight(kind),
    layout: { topStart: "search", topEnd: null, bottomStart: ["pageLength", "info"], bottomEnd: "paging" },
    language: { search: "Search", searchPlaceholder: "levels, ids, values", lengthMenu: "_MENU_ a page",
      info: `_START_ to _END_ of _TOTAL_ ${kind}`, infoFiltered: "(of _MAX_)" },
  });
  tables[kind] = table;
  all.addEventListener("change", () => {
    const runs = table.rows({ search: "applied" }).data().toArray().flatMap((row) => runsOf(kind, row));
    select((set) => runs.forEach((run) => (all.checked ? set.add(run) : set.delete(run))));
  });
  element.tBodies[0].addEventListener("click", (event) => {
    const row = table.row(event.target.closest("tr")).data();
    if (row !== undefined) toggle(runsOf(kind, row));
  });
  highlight(kind);
}

function factorNamed(name) {
  return data.factors.find((factor) => factor.name === name);
}

/** What a column sorts by: numbers of its own, or its levels' place in the study; words where there is neither. */
function sortKeys(kind, i) {
  const column = data[kind].columns[i];
  const factor = factorNamed(column.name);
  column.order ??= column.numbers ?? (factor && column.words.map((word) => factor.levels.indexOf(word)));
  return column.order;
}

function cell(kind, i, row, type, text) {
  const column = data[kind].columns[i];
  if (type === "sort" || type === "type") return sortKeys(kind, i) ? column.order[row] ?? Infinity : column.words[row];
  return type === "display" ? text(column.words[row]) : column.words[row];
}

function runsOf(kind, row) {
  return kind === "runs" ? [row] : data.members[row];
}

/** The rows on a table's page show whether they are selected. */
function highlight(kind) {
  const table = tables[kind];
  for (const place of table.rows({ page: "current" }).indexes().toArray()) {
    const on = runsOf(kind, table.row(place).data()).some((run) => selected.has(run));
    const element = table.row(place).node();
    element.classList.toggle("selected", on);
    element.querySelector("input").checked = on;
  }
}

// ---- charts by Vega-Lite

const CHARTS = {
  sweep: ["Sweep", sweepChart],
  heat: ["Heat map", heatChart],
  parallel: ["Parallel coordinates", parallelChart],
  columns: ["Any two columns", (controls) => scatterChart(controls)],
  compute: ["Loss against compute", () => scatterChart(null, "runs", "train_flops", "best_val_loss", true)],
  spread: ["Spread over seeds", () => scatterChart(null, "configurations", "mean", "sd")],
  gap: ["Train–val gap", () => scatterChart(null, "runs", "final_train_loss", "train_val_gap")],
  samples: ["Samples", samplesOf],
};
const chartChoice = make("fieldset", { className: "tabs" }, make("legend", { textContent: "Charts" }));
const chartControls = make("div", { className: "controls" });
const chartTitle = make("h3");
const chartFrame = make("div", { id: "chart" });
const chartPanel = make("div", { className: "panel" }, chartChoice, chartControls, chartTitle, chartFrame);

let [lookup, keysOf] = [null, null]; // of the open chart: the runs behind a mark's key, and the keys that a run has there

for (const [name, [words]] of Object.entries(CHARTS)) {
  const input = make("input", { type: "radio", name: "chart", value: name });
  input.addEventListener("change", () => { chosen.chart = name; drawChart(); });
  chartChoice.append(make("label", {}, input, words));
}

async function drawChart() {
  chart?.finalize();
  chart = null;
  chartControls.replaceChildren();
  keysOf = (run) => [data.configurations.key[data.runs.configuration[run]], data.runs.id[run]];
  const drawn = CHARTS[chosen.chart][1](chartControls);
  chartTitle.textContent = drawn.title;
  if (!drawn.spec) return chartFrame.replaceChildren(...[drawn.element].filter(Boolean));
  const options = { mode: "vega-lite", renderer: "canvas", actions: false, ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
  const view = (await vegaEmbed(chartFrame, themed(drawn), options)).view;
  chart = view;
  view.addEventListener("click", (_, item) => item?.datum?.key && toggle(runsBehind(item.datum.key)));
  if (drawn.brushed) view.addEventListener("pointerup", () => brush(view, drawn));
}

/** What charts have in common: size, text alternative, colours of the page, and `picked`, the selection. */
function themed({ title, spec }) {
  const text = { labelColor: { expr: "ink" }, titleColor: { expr: "ink" }, gridColor: { expr: "line" }, domainColor: { expr: "soft" }, tickColor: { expr: "soft" } };
  return {
    width: "container", height: 340, background: null, description: title, ...spec,
    params: [{ name: "picked", value: pickedKeys() }, ...inks().map(([name, value]) => ({ name, value })), ...(spec.params ?? [])],
    config: { view: { stroke: null }, axis: { ...text, titleFontWeight: "normal" }, text: { color: { expr: "ink" } }, legend: { ...text, orient: "top", titleFontWeight: "normal" } },
  };
}

function inks() {
  return ["ink", "soft", "line"].map((name) => [name, ink(`--${name}`)]);
}

function runsBehind(key) {
  lookup ??= new Map();
  lookup.clear();
  data.runs.id.forEach((_, run) => keysOf(run).forEach((name) => lookup.set(name, [...(lookup.get(name) ?? []), run])));
  return lookup.get(key) ?? [];
}

/** Select the rows inside the box that was drawn over a chart. */
function brush(view, { rows, brushed }) {
  const box = Object.entries(view.signal("brush") ?? {});
  if (!box.length) return;
  const within = (value, range) => (typeof range[0] === "number" ? value >= Math.min(...range) && value <= Math.max(...range) : range.includes(value));
  const keys = new Set(rows.filter((row) => box.every(([field, range]) => within(row[field], range))).map((row) => row.key));
  select((set) => {
    set.clear();
    data.runs.id.forEach((_, run) => keysOf(run).some((key) => keys.has(key)) && set.add(run));
  });
}

const FADED = { condition: { test: "!picked.any || picked[datum.key]", value: 0.9 }, value: 0.1 };

function colourScale() {
  const entries = legend();
  return { field: "group", type: "nominal", title: chosen.colour, scale: { domain: entries.map(([word]) => word), range: entries.map(([, colour]) => colour) } };
}

/** One object a row of a table: its numbers, else its words, with its key, name and colour group. */
function rowsOf(kind) {
  const keys = kind === "runs" ? data.runs.id : data.configurations.key;
  return keys.map((key, row) => {
    const line = kind === "runs" ? { run: row, configuration: data.runs.configuration[row] } : { configuration: row };
    const cells = data[kind].columns.map(({ name, numbers, words }) => [name, (numbers ?? words)[row]]);
    return { ...Object.fromEntries(cells), key, name: nameOf(line), group: groupOf(line) ?? "several" };
  });
}

function scatterChart(controls, kind, x, y, logX = false) {
  if (controls) {
    const columns = (of) => data[of].columns.filter((column) => column.numbers).map(({ name, title }) => [name, title]);
    controls.append(menu("rows", "Rows", [["runs", "runs"], ["configurations", "configurations"]], drawChart));
    controls.append(menu("x", "x", columns(chosen.rows), drawChart), menu("y", "y", columns(chosen.rows), drawChart));
    controls.append(box("logXColumn", "log x", drawChart), box("logYColumn", "log y", drawChart));
    [kind, x, y, logX] = [chosen.rows, chosen.x, chosen.y, chosen.logXColumn];
  }
  const rows = rowsOf(kind).filter((row) => Number.isFinite(row[x]) && Number.isFinite(row[y]));
  const titleOf = (name) => columnOf(kind, name)?.title ?? name;
  const axis = (name, log) => ({ field: name, type: "quantitative", title: titleOf(name), scale: log ? { type: "log" } : { zero: false }, axis: { format: "~s" } });
  const spec = {
    data: { values: rows },
    mark: { type: "point", filled: true, size: rows.length > 1000 ? 20 : 60 },
    params: [{ name: "brush", select: "interval" }],
    encoding: {
      x: axis(x, logX), y: axis(y, controls && chosen.logYColumn), color: colourScale(), opacity: FADED,
      tooltip: [{ field: "name", title: "" }, { field: x, title: titleOf(x), format: ".5~s" }, { field: y, title: titleOf(y), format: ".5~s" }],
    },
  };
  return { title: association(rows, x, y, titleOf), spec: rows.length ? spec : null, rows, brushed: true };
}

/** Whether two columns rise together, by Spearman's rank correlation. */
function association(rows, x, y, titleOf) {
  if (!rows.length) return `No row has both ${titleOf(x)} and ${titleOf(y)} yet`;
  const [a, b] = [x, y].map((name) => ranks(rows.map((row) => row[name])));
  const centre = (rows.length - 1) / 2;
  const product = (p, q) => p.reduce((sum, value, i) => sum + (value - centre) * (q[i] - centre), 0);
  const correlation = product(a, b) / Math.sqrt(product(a, a) * product(b, b));
  if (!Number.isFinite(correlation)) return `${titleOf(y)} against ${titleOf(x)}`;
  const how = Math.abs(correlation) < 0.3 ? "hardly varies with" : correlation > 0 ? "rises with" : "falls with";
  return `${titleOf(y)} ${how} ${titleOf(x)} (rank correlation ${correlation.toFixed(2)}, n = ${rows.length.toLocaleString("en")})`;
}

/** Ranks from 0; equal values share the mean of theirs. */
function ranks(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return values.map((value) => (lowerBound(sorted, value) + lowerBound(sorted, value + 1e-12 * Math.abs(value) || 1e-300) - 1) / 2);
}

function parallelChart() {
  const results = ["mean", "train_val_gap", "tokens_per_s"].map((name) => columnOf("configurations", name)).filter(Boolean);
  const axes = [
    ...data.factors.map(({ name, levels, level }) => ({ title: name, places: level.map((i) => i / (levels.length - 1)), ends: levels.map((word, i) => [word, i / (levels.length - 1)]) })),
    ...results.map(({ title, numbers }) => {
      const known = numbers.filter(Number.isFinite);
      const [low, high] = [Math.min(...known), Math.max(...known)];
      return { title, places: numbers.map((value) => (Number.isFinite(value) ? (value - low) / (high - low || 1) : null)), ends: known.length ? [[spell(low), 0], [spell(high), 1]] : [] };
    }),
  ];
  const base = rowsOf("configurations").map(({ key, name, group }) => ({ key, name, group }));
  const rows = axes.flatMap(({ title, places }) => base.map((row, i) => ({ ...row, axis: title, place: places[i] })));
  const ticks = axes.flatMap(({ title, ends }) => ends.map(([word, place]) => ({ axis: title, word, place })));
  const x = { field: "axis", type: "nominal", sort: null, title: null, scale: { type: "point", padding: 0.4 }, axis: { labelAngle: 0, domain: false, labelLimit: 110 } };
  const y = { field: "place", type: "quantitative", axis: null };
  const spec = {
    layer: [
      { data: { values: rows }, params: [{ name: "brush", select: "interval" }], mark: { type: "line", tooltip: true, strokeWidth: 1.2 }, encoding: { x, y, detail: { field: "key" }, color: colourScale(), opacity: FADED, tooltip: { field: "name" } } },
      { data: { values: ticks }, mark: { type: "text", align: "right", dx: -6, fontWeight: "bold" }, encoding: { x, y, text: { field: "word" } } },
    ],
  };
  return { title: sharedLevels(), spec, rows, brushed: true };
}

/** What the best tenth of the configurations have in common. */
function sharedLevels() {
  const loss = columnOf("configurations", "mean").numbers;
  const best = loss.map((value, i) => [value, i]).filter(([value]) => value !== null).sort(([a], [b]) => a - b);
  const count = Math.min(best.length, Math.max(3, Math.round(best.length / 10)));
  const top = best.slice(0, count).map(([, i]) => i);
  const shared = data.factors.filter(({ level }) => new Set(top.map((i) => level[i])).size === 1).map(({ name, level, levels }) => `${name} ${levels[level[top[0]]]}`);
  if (!top.length) return "No configuration has a result yet";
  return shared.length ? `The best ${count} configurations all have ${shared.join(" and ")}` : `The best ${count} configurations share no level of a factor`;
}

/** Mean of the configurations' losses at each pair of levels of two factors; without the second, at each level. */
function cellMeans(first, second) {
  const loss = columnOf("configurations", "mean").numbers;
  const cellOf = (i) => `${first.levels[first.level[i]]} · ${second ? second.levels[second.level[i]] : ""}`;
  keysOf = (run) => [cellOf(data.runs.configuration[run])];
  const means = new Map();
  data.configurations.key.forEach((_, i) => {
    if (!means.has(cellOf(i))) means.set(cellOf(i), { key: cellOf(i), a: first.levels[first.level[i]], number: first.numbers?.[first.level[i]], b: second ? second.levels[second.level[i]] : "all", values: [] });
    if (loss[i] !== null) means.get(cellOf(i)).values.push(loss[i]);
  });
  return [...means.values()].map(({ values, ...cell }) => ({ ...cell, n: values.length, loss: values.length ? mean(values) : null, text: values.length ? mean(values).toFixed(3) : "no result" }));
}

function factorMenus(controls, names, words, factors) {
  const options = factors.map(({ name }) => [name, name]);
  controls.append(menu(names[0], words[0], options, drawChart));
  const others = data.factors.map(({ name }) => [name, name]).filter(([name]) => name !== chosen[names[0]]);
  controls.append(menu(names[1], words[1], others.length ? others : [["", "none"]], drawChart));
  return names.map((name) => factorNamed(chosen[name]));
}

function heatChart(controls) {
  if (data.factors.length < 2) return { title: "A heat map needs two factors with several levels each" };
  const [first, second] = factorMenus(controls, ["heatX", "heatY"], ["x", "y"], data.factors);
  const cells = cellMeans(first, second);
  const best = cells.filter(({ loss }) => loss !== null).sort((a, b) => a.loss - b.loss)[0];
  const axis = (field, factor) => ({ field, type: "ordinal", sort: factor.levels, title: factor.name, axis: { labelAngle: 0, grid: false } });
  const middle = mean(cells.filter(({ loss }) => loss !== null).map(({ loss }) => loss));
  const spec = {
    data: { values: cells },
    encoding: { x: axis("a", first), y: axis("b", second), tooltip: [{ field: "key", title: "cell" }, { field: "text", title: "mean best val loss" }, { field: "n", title: "configurations" }] },
    layer: [
      { mark: { type: "rect", invalid: null }, encoding: { color: { condition: { test: "datum.loss === null", value: "#88888833" }, field: "loss", type: "quantitative", scale: { scheme: "blues", reverse: true, zero: false }, legend: { title: "mean best val loss" } }, opacity: { ...FADED, value: 0.3 } } },
      ...(cells.length > 100 ? [] : [{ mark: "text", encoding: { text: { field: "text" }, color: { condition: { test: `datum.loss !== null && datum.loss < ${middle}`, value: "#fff" }, value: { expr: "ink" } } } }]),
    ],
  };
  return { title: best ? `Lowest where ${first.name} is ${best.a} and ${second.name} ${best.b}: ${best.text}` : "No cell has a result yet", spec };
}

function sweepChart(controls) {
  const numeric = data.factors.filter(({ numbers }) => numbers).sort((a, b) => (b.name === "learning_rate") - (a.name === "learning_rate") || b.levels.length - a.levels.length);
  if (!numeric.length) return { title: "A sweep needs a factor whose levels are numbers" };
  const [first, second] = factorMenus(controls, ["sweepOf", "sweepBy"], ["Factor", "a line for each"], numeric);
  const points = cellMeans(first, second).filter(({ loss }) => loss !== null);
  const best = (second?.levels ?? ["all"]).map((b) => points.filter((point) => point.b === b).sort((p, q) => p.loss - q.loss)[0]).filter(Boolean);
  for (const point of points) point.best = best.includes(point) ? "best" : "";
  const known = points.map(({ number }) => number);
  const log = Math.min(...known) > 0 && Math.max(...known) / Math.min(...known) > 8;
  const colour = second && { field: "b", type: "nominal", title: second.name, scale: { domain: second.levels, range: second.colours } };
  const spec = {
    data: { values: points },
    encoding: {
      x: { field: "number", type: "quantitative", title: first.name, scale: log ? { type: "log" } : { zero: false }, axis: { values: [...new Set(known)], format: ".6~g" } },
      y: { field: "loss", type: "quantitative", title: "mean best val loss", scale: { zero: false } },
      ...(colour && { color: colour }),
    },
    layer: [
      { mark: "line" },
      { mark: { type: "point", filled: true }, encoding: { size: { condition: { test: "datum.best", value: 140 }, value: 50 }, opacity: FADED, tooltip: [{ field: "a", title: first.name }, { field: "b", title: second?.name ?? "" }, { field: "loss", format: ".4f" }, { field: "n", title: "configurations" }] } },
      { mark: { type: "text", dy: -12 }, encoding: { text: { field: "best" } } },
    ],
  };
  return { title: best.length ? sweepFinding(best, first, second) : "No configuration has a result yet", spec };
}

/** Where each line is lowest, and whether that is the first or the last level that was tried. */
function sweepFinding(best, first, second) {
  const ends = [Math.min(...first.numbers), Math.max(...first.numbers)];
  const atEdge = best.filter(({ number }) => first.levels.length > 2 && ends.includes(number));
  const lines = best.slice(0, 4).map(({ a, b }) => `${a} for ${second?.name} ${b}`).join(", ");
  const same = new Set(best.map(({ a }) => a)).size === 1;
  const where = same ? `${best[0].a}${second ? ` for every ${second.name}` : ""}` : lines + (best.length > 4 ? ", …" : "");
  if (!atEdge.length) return `The best ${first.name} is ${where}`;
  const which = atEdge.length < best.length ? `for ${second.name} ${atEdge.map(({ b }) => b).join(", ")} ` : "";
  return `The best ${first.name} is ${where}; ${which}the best lies at the edge of the grid`;
}

function samplesOf(controls) {
  const runs = Object.keys(data.samples);
  if (!runs.length) return { title: "No run has kept samples" };
  controls.append(menu("sample", "Run", runs.map((run) => [run, `${data.runs.label[run]} (${data.runs.id[run]})`]), drawChart));
  return { title: `Text written by ${data.runs.label[chosen.sample]}`, element: make("pre", { className: "sample", textContent: data.samples[chosen.sample] }) };
}

// ---- start, update, print

/** Show other data, say of a study that went on, and keep the selection, the menus and the tables' filters. */
async function update(text) {
  const ids = [...selected].map((run) => data.runs.id[run]);
  data = await unpacked(text);
  selected.clear();
  ids.forEach((id) => { const run = data.runs.id.indexOf(id); if (run >= 0) selected.add(run); });
  drawAll();
  for (const [kind, table] of Object.entries(tables)) table.clear().rows.add(data[kind].label.map((_, row) => row)).draw(false);
  select(() => {});
}

function drawAll() {
  setUpCurves();
  drawCurves();
  if (chart || chartFrame.childNodes.length) drawChart();
}

function repaint(forPrint) {
  printing = forPrint;
  document.documentElement.classList.toggle("dark", dark.matches && !printing); // what DataTables' styles go by
  curves.draw();
  inks().forEach(([name, value]) => chart?.signal(name, value));
  chart?.run();
}

async function start() {
  document.body.append(tip);
  const [configurations, runs] = ["configurations", "runs"].map((kind) => document.getElementById(kind).closest(".table"));
  configurations.closest(".contents").after(container);
  const panel = make("div", { className: "panel" }, curveControls, curveTitle, plot, curveLegend, curveNote);
  container.append(panel, selectionLine, configurations, chartPanel, runs);
  data = await unpacked(document.getElementById("data").textContent);
  curves = makeCurves(plot, { colourOf: (line) => colours[groupOf(line)] ?? ink("--soft"), nameOf, isSelected, ink, show: showTip, onPick: (line) => toggle(line.run === undefined ? data.members[line.configuration] : [line.run]) });
  drawAll();
  chosen.chart = "sweep";
  chartChoice.querySelector("input").checked = true;
  ["configurations", "runs"].forEach(setUpTable);
  new IntersectionObserver(([entry], observer) => { if (entry.isIntersecting) { observer.disconnect(); drawChart(); } }).observe(chartPanel);
  for (const contents of document.querySelectorAll(".contents")) {
    // `isoloss watch` writes chapters anew: their figures show the selection too, and the tables are here already.
    const renewed = () => { contents.parentElement.querySelectorAll(".contents:has(~ #explore) > .table").forEach((table) => table.remove()); dimFigures(); };
    new MutationObserver(renewed).observe(contents, { childList: true });
  }
  new ResizeObserver(() => curves.draw()).observe(plot);
  repaint(false);
  dark.addEventListener("change", () => repaint(false));
  addEventListener("beforeprint", () => repaint(true));
  addEventListener("afterprint", () => repaint(false));
  document.documentElement.dataset.drawn = Math.round(performance.now());
}

globalThis.isolossUpdate = update;
globalThis.isoloss = { lines: () => curves.lines(), selected: () => [...selected].map((run) => data.runs.id[run]), select };
start().catch((error) => {
  container.prepend(make("p", { role: "alert", textContent: `The interactive part cannot be shown: ${error}` }));
  throw error;
});

// Charts by Vega-Lite. Each function makes one kind: a title that is its finding, and a specification (or an element).
// Marks carry a `key`; `keysOf(run)` says which keys of the open chart a run is part of.

const CHARTS = {
  sweep: ["Sweep", sweepChart],
  heat: ["Heat map", heatChart],
  parallel: ["Parallel coordinates", parallelChart],
  columns: ["Any two columns", columnsChart],
  compute: ["Loss against compute", () => scatterChart("runs", "train_flops", "best_val_loss", { logX: true })],
  spread: ["Spread over seeds", () => scatterChart("configurations", "mean", "sd")],
  gap: ["Train–val gap", () => scatterChart("runs", "final_train_loss", "train_val_gap")],
  samples: ["Samples", samplesOf],
};
const EMBED = { mode: "vega-lite", renderer: "canvas", actions: false, ast: true, defaultStyle: false,
  tooltip: { disableDefaultStyle: true } };
const FADED = { condition: { test: "!picked.any || picked[datum.key]", value: 0.9 }, value: 0.1 };
const BRUSH = [{ name: "brush", select: "interval" }];
let [chart, keysOf, drawing] = [null, rowKeys, Promise.resolve()];

/** Draws the chart that is chosen, after the one that is being drawn. */
function drawChart() {
  drawing = drawing.then(replaceChart, replaceChart);
  return drawing;
}

async function replaceChart() {
  chart?.finalize();
  [chart, keysOf] = [null, rowKeys];
  chartControls.replaceChildren();
  const name = chosen.chart;
  const drawn = CHARTS[name][1](chartControls);
  chartTitle.textContent = drawn.title[0].toUpperCase() + drawn.title.slice(1);
  if (drawn.spec) await embed(drawn);
  else chartFrame.replaceChildren(...[drawn.element].filter(Boolean));
  chartFrame.dataset.shows = name;
}

async function embed(drawn) {
  const { view } = await vegaEmbed(chartFrame, themed(drawn), EMBED);
  chart = view;
  view.addEventListener("click", (_, item) => item?.datum?.key && toggle(runsBehind(new Set([item.datum.key]))));
  if (drawn.rows) view.addEventListener("pointerup", () => brush(view, drawn.rows));
}

/** What charts have in common: size, text alternative, colours of the page, and `picked`, the selection. */
function themed({ title, spec }) {
  const lines = { gridColor: { expr: "line" }, domainColor: { expr: "soft" }, tickColor: { expr: "soft" } };
  const words = { labelColor: { expr: "ink" }, titleColor: { expr: "ink" }, titleFontWeight: "normal" };
  const config = { view: { stroke: null }, axis: { ...words, ...lines }, text: { color: { expr: "ink" } }, legend: { ...words, orient: "top" } };
  const params = [{ name: "picked", value: picked() }, ...inks().map(([name, value]) => ({ name, value })), ...(spec.params ?? [])];
  return { width: "container", height: 340, background: null, description: title, config, ...spec, params };
}

function inks() {
  return ["ink", "soft", "line"].map((name) => [name, ink(`--${name}`)]);
}

/** What specifications test: an object with a field for each key that a selected run has. */
function picked(keys = keysOf) {
  return Object.fromEntries([["any", selected.size > 0], ...[...selected].flatMap(keys).map((key) => [key, true])]);
}

/** The keys of a run as a row, and of its configuration. */
function rowKeys(run) {
  return [data.configurations.key[data.runs.configuration[run]], data.runs.id[run]];
}

function runsBehind(keys) {
  return [...data.runs.id.keys()].filter((run) => keysOf(run).some((key) => keys.has(key)));
}

/** Select the rows inside the box that was drawn over a chart. */
function brush(view, rows) {
  const box = Object.entries(view.signal("brush") ?? {});
  if (!box.length) return;
  const within = (value, range) => value >= Math.min(...range) && value <= Math.max(...range);
  const keys = new Set(rows.filter((row) => box.every(([field, range]) => within(row[field], range))).map(({ key }) => key));
  select((set) => { set.clear(); runsBehind(keys).forEach((run) => set.add(run)); });
}

function colourScale(field = "group", name = chosen.colour) {
  const [domain, range] = [0, 1].map((part) => legend(name).map((entry) => entry[part]));
  return { field, type: "nominal", title: name, scale: { domain, range } };
}

function quantity(field, title, rows, log = false) {
  const format = rows.some((row) => Math.abs(row[field]) >= 1e4) ? ".4~s" : ".5~g";
  return { field, type: "quantitative", title, scale: log ? { type: "log" } : { zero: false }, axis: { format } };
}

/** One object a row of a table: its numbers, else its words, with its key, name and colour group. */
function rowsOf(kind) {
  const keys = kind === "runs" ? data.runs.id : data.configurations.key;
  return keys.map((key, row) => {
    const line = kind === "runs" ? { run: row, configuration: data.runs.configuration[row] } : { configuration: row };
    const cells = data[kind].columns.map(({ name, numbers, words }) => [name, (numbers ?? words)[row]]);
    return { ...Object.fromEntries(cells), key, name: nameOf(line), group: groupOf(line) };
  });
}

function scatterChart(kind, x, y, { logX = false, logY = false } = {}) {
  const done = (row) => kind !== "runs" || row.status === "done"; // an early end says nothing of a whole run
  const rows = rowsOf(kind).filter((row) => done(row) && Number.isFinite(row[x]) && Number.isFinite(row[y]));
  const [titleX, titleY] = [x, y].map((name) => columnOf(kind, name)?.title ?? name);
  if (!rows.length) return { title: `nothing has both ${titleX} and ${titleY} yet` };
  const [alongX, alongY] = [quantity(x, titleX, rows, logX), quantity(y, titleY, rows, logY)];
  const tooltip = [{ field: "name", title: "" }, ...[alongX, alongY].map(({ field, title, axis }) => ({ field, title, ...axis }))];
  const encoding = { x: alongX, y: alongY, color: colourScale(), opacity: FADED, tooltip };
  const mark = { type: "point", filled: true, size: rows.length > 1000 ? 20 : 60 };
  return { title: association(rows, x, y, titleX, titleY), rows, spec: { data: { values: rows }, layer: [{ mark, params: BRUSH, encoding }] } };
}

function columnsChart(controls) {
  controls.append(menu("rows", "Rows", [["runs", "runs"], ["configurations", "configurations"]], drawChart));
  const columns = data[chosen.rows].columns.filter(({ numbers }) => numbers).map(({ name, title }) => [name, title]);
  controls.append(menu("x", "x", columns, drawChart), menu("y", "y", columns, drawChart));
  controls.append(box("logColumnX", "log x", drawChart), box("logColumnY", "log y", drawChart));
  return scatterChart(chosen.rows, chosen.x, chosen.y, { logX: chosen.logColumnX, logY: chosen.logColumnY });
}

/** Whether two columns rise together, by Spearman's rank correlation. */
function association(rows, x, y, titleX, titleY) {
  const [a, b] = [x, y].map((name) => ranks(rows.map((row) => row[name])));
  const product = (p, q) => p.reduce((sum, value, i) => sum + value * q[i], 0);
  const correlation = product(a, b) / Math.sqrt(product(a, a) * product(b, b));
  if (!Number.isFinite(correlation)) return `${titleY} against ${titleX}`;
  const how = Math.abs(correlation) < 0.3 ? "hardly varies with" : correlation > 0 ? "rises with" : "falls with";
  const n = rows.length.toLocaleString("en");
  return `${titleY} ${how} ${titleX} (rank correlation ${correlation.toFixed(2).replace("-", "−")}, n = ${n})`;
}

/** Ranks around 0; equal values share the mean of theirs. */
function ranks(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const last = new Map(sorted.map((value, i) => [value, i]));
  return values.map((value) => (lowerBound(sorted, value) + last.get(value) - sorted.length + 1) / 2);
}

function parallelChart() {
  const known = columnOf("configurations", "mean").numbers.filter(Number.isFinite).length;
  if (known < 2) return { title: "parallel coordinates compare configurations, and fewer than two have a result yet" };
  const results = ["mean", "train_val_gap", "tokens_per_s"].map((name) => columnOf("configurations", name));
  const axes = [...data.factors.map(factorAxis), ...results.map(resultAxis)];
  const base = rowsOf("configurations").map(({ key, name, group }) => ({ key, name, group }));
  const rows = axes.flatMap(({ places }, axis) => base.map((row, i) => ({ ...row, axis, place: places[i] })));
  const ticks = axes.flatMap(({ ends }, axis) => ends.map(([word, place]) => ({ axis, word, place })));
  const labels = { values: [...axes.keys()], labelExpr: "titles[datum.value]", labelAngle: chartFrame.clientWidth < 600 ? -40 : 0 };
  const x = { field: "axis", type: "quantitative", title: null, scale: { domain: [-0.5, axes.length - 0.7], nice: false },
    axis: { ...labels, domain: false, labelOverlap: false } };
  const y = { field: "place", type: "quantitative", axis: null, scale: { domain: [-0.08, 1.08] } }; // room for a box
  const lines = { x, y, detail: { field: "key" }, color: colourScale(), opacity: FADED, tooltip: { field: "name" } };
  const layer = [
    { data: { values: rows }, params: BRUSH, mark: { type: "line", strokeWidth: 1.2 }, encoding: lines },
    { data: { values: ticks }, mark: { type: "text", align: "right", dx: -6, fontWeight: "bold" }, encoding: { x, y, text: { field: "word" } } },
  ];
  return { title: sharedLevels(known), rows, spec: { params: [{ name: "titles", value: axes.map(({ title }) => title) }], layer } };
}

function factorAxis({ name, levels, level }) {
  const place = (i) => i / (levels.length - 1);
  return { title: name, places: level.map(place), ends: levels.map((word, i) => [word, place(i)]) };
}

function resultAxis({ title, numbers }) {
  const known = numbers.filter(Number.isFinite);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const places = numbers.map((value) => (Number.isFinite(value) ? (value - low) / (high - low || 1) : null));
  return { title, places, ends: (low < high ? [low, high] : [low]).map((value, place) => [spell(value, 3), place]) };
}

/** What the best tenth of the configurations have in common; the best come first. */
function sharedLevels(results) {
  const count = Math.min(results, Math.max(3, Math.round(data.configurations.key.length / 10)));
  const same = ({ level }) => new Set(level.slice(0, count)).size === 1;
  const shared = data.factors.filter(same).map(({ name, level, levels }) => `${name} ${levels[level[0]]}`);
  return `the best ${count} configurations ${shared.length ? `all have ${shared.join(" and ")}` : "share no level of a factor"}`;
}

/** Mean of the configurations' losses at each pair of levels of two factors; without the second, at each level. */
function cellMeans(first, second) {
  const loss = columnOf("configurations", "mean").numbers;
  const levelOf = (factor, i) => (factor ? factor.levels[factor.level[i]] : "all");
  const keyOf = (i) => `${levelOf(first, i)} · ${levelOf(second, i)}`;
  keysOf = (run) => [keyOf(data.runs.configuration[run])];
  const cells = new Map();
  loss.forEach((value, i) => {
    const blank = { key: keyOf(i), a: levelOf(first, i), b: levelOf(second, i), number: first.numbers?.[first.level[i]], values: [] };
    if (!cells.has(blank.key)) cells.set(blank.key, blank);
    if (value !== null) cells.get(blank.key).values.push(value);
  });
  const known = ({ values, ...cell }) => ({ ...cell, n: values.length, loss: values.length ? mean(values) : null });
  return [...cells.values()].map(known).map((cell) => ({ ...cell, text: cell.n ? cell.loss.toFixed(3) : "no result" }));
}

/** Menus for one of some factors and for another of all; returns both, the second undefined where there is none. */
function factorMenus(controls, [first, firstWords], [second, secondWords], factors) {
  controls.append(menu(first, firstWords, factors.map(({ name }) => [name, name]), drawChart));
  const others = data.factors.map(({ name }) => [name, name]).filter(([name]) => name !== chosen[first]);
  if (others.length) controls.append(menu(second, secondWords, others, drawChart));
  return [factorNamed(chosen[first]), others.length ? factorNamed(chosen[second]) : undefined];
}

/** What the means of configurations are means of, in the words of their table. */
const meanTitle = () => columnOf("configurations", "mean").title;

function lowest(cells) {
  return cells.filter(({ n }) => n).reduce((best, cell) => (best && best.loss <= cell.loss ? best : cell), null);
}

function heatChart(controls) {
  if (data.factors.length < 2) return { title: "a heat map needs two factors with several levels each" };
  const [first, second] = factorMenus(controls, ["heatX", "x"], ["heatY", "y"], data.factors);
  const cells = cellMeans(first, second);
  const [best, losses] = [lowest(cells), cells.filter(({ n }) => n).map(({ loss }) => loss)];
  if (!best) return { title: "no configuration has a result yet" };
  const axis = (field, factor) => ({ field, type: "ordinal", sort: factor.levels, title: factor.name, axis: { labelAngle: 0, grid: false } });
  const tooltip = [{ field: "key", title: "cell" }, { field: "text", title: meanTitle() }, { field: "n", title: "configurations" }];
  const color = { condition: { test: "datum.loss === null", value: "#88888833" }, field: "loss", type: "quantitative",
    scale: { scheme: "blues", reverse: true, zero: false }, legend: { title: meanTitle() } };
  const stroke = { condition: { test: "picked.any && picked[datum.key]", value: ink("--ink") }, value: null };
  const text = { condition: { test: `datum.n && datum.loss < ${mean(losses)}`, value: "#fff" }, value: "#000" };
  const layer = [
    { mark: { type: "rect", invalid: null }, encoding: { color, stroke, strokeWidth: { value: 3 } } },
    ...(cells.length > 100 ? [] : [{ mark: "text", encoding: { text: { field: "text" }, color: text } }]),
  ];
  const encoding = { x: axis("a", first), y: axis("b", second), tooltip };
  return { title: `lowest where ${first.name} is ${best.a} and ${second.name} ${best.b}: ${best.text}`, spec: { data: { values: cells }, encoding, layer } };
}

function sweepChart(controls) {
  const order = ({ name, levels }) => (name === "learning_rate" ? Infinity : levels.length);
  const numeric = data.factors.filter(({ numbers }) => numbers).sort((a, b) => order(b) - order(a));
  if (!numeric.length) return { title: "a sweep needs a factor whose levels are numbers" };
  const [first, second] = factorMenus(controls, ["sweepOf", "Factor"], ["sweepBy", "a line for each"], numeric);
  const points = cellMeans(first, second).filter(({ n }) => n);
  if (!points.length) return { title: "no configuration has a result yet" };
  const best = (second?.levels ?? ["all"]).map((b) => lowest(points.filter((point) => point.b === b))).filter(Boolean);
  for (const point of points) point.best = best.includes(point) ? "best" : "";
  const known = [...new Set(points.map(({ number }) => number))];
  const log = Math.min(...known) > 0 && Math.max(...known) / Math.min(...known) > 8;
  const x = { ...quantity("number", first.name, points, log), axis: { values: known, format: ".6~g" } };
  const tooltip = [{ field: "a", title: first.name }, { field: "b", title: second?.name ?? "" }, { field: "text", title: meanTitle() }, { field: "n", title: "configurations" }];
  const layer = [
    { mark: "line" },
    { mark: { type: "point", filled: true }, encoding: { size: { condition: { test: "datum.best", value: 140 }, value: 50 }, opacity: FADED, tooltip } },
    { mark: { type: "text", dy: -12 }, encoding: { text: { field: "best" } } },
  ];
  const encoding = { x, y: quantity("loss", meanTitle(), points), ...(second && { color: colourScale("b", second.name) }) };
  return { title: sweepFinding(best, first, second), spec: { data: { values: points }, encoding, layer } };
}

/** Where each line is lowest, and whether that is the first or the last level that was tried. */
function sweepFinding(best, first, second) {
  const ends = [Math.min(...first.numbers), Math.max(...first.numbers)];
  const atEdge = best.filter(({ number }) => first.levels.length > 2 && ends.includes(number));
  const lines = best.slice(0, 4).map(({ a, b }) => `${a} for ${second?.name} ${b}`).join(", ");
  const same = new Set(best.map(({ a }) => a)).size === 1;
  const where = same ? `${best[0].a}${second ? ` for every ${second.name}` : ""}` : lines + (best.length > 4 ? ", …" : "");
  if (!atEdge.length) return `the best ${first.name} is ${where}`;
  const which = atEdge.length < best.length ? `for ${second.name} ${atEdge.map(({ b }) => b).join(", ")} ` : "";
  return `the best ${first.name} is ${where}; ${which}the best lies at the edge of the grid`;
}

function samplesOf(controls) {
  const runs = Object.keys(data.samples);
  if (!runs.length) return { title: "no run has kept samples" };
  controls.append(menu("sample", "Run", runs.map((run) => [run, `${data.runs.label[run]} (${data.runs.id[run]})`]), drawChart));
  const element = make("pre", { tabIndex: 0, textContent: data.samples[chosen.sample] });
  return { title: `text written by ${data.runs.label[chosen.sample]}`, element };
}

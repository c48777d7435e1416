// The curves of every run. A hidden canvas keeps all lines; the visible one is a copy of it, paler while something is
// selected, with axes, the selected lines and the one under the pointer. So selecting redraws a few lines of however many.

const QUANTITIES = {
  val_bpb: ["evals", "validation loss in bits per byte"],
  val_loss: ["evals", "validation loss"],
  ema_val_loss: ["evals", "validation loss of the averaged weights"],
  train_loss: ["evals", "training loss at evaluations"],
  loss: ["steps", "training loss of each step's batch"],
  lr: ["steps", "learning rate"],
  grad_norm: ["steps", "gradient norm"],
};
const AGAINST = { step: "steps", tokens: "training tokens", flops: "training FLOPs", seconds: "seconds of training" };
const MAX_BANDS = 60;
const MAX_LABELS = 8;
const FONT = "12px system-ui, 'Liberation Sans', Arial, sans-serif";

/** Where a sorted array reaches a value: the index of its first entry that is not below. */
function lowerBound(sorted, value) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Linear interpolation; NaN outside of xs. */
function interpolated(xs, ys, x) {
  const after = lowerBound(xs, x);
  if (xs[after] === x) return ys[after];
  if (after === 0 || after === xs.length) return NaN;
  const share = (x - xs[after - 1]) / (xs[after] - xs[after - 1]);
  return ys[after - 1] + share * (ys[after] - ys[after - 1]);
}

/** One run's line: its steps, where these lie on the chosen x axis, and the chosen quantity. */
function runLine(data, run, { quantity, against }) {
  const set = data.curves[QUANTITIES[quantity][0]];
  const steps = set.steps(run);
  return { run, configuration: data.runs.configuration[run], steps, x: along(data, run, steps, against),
    y: set.values(run, quantity) };
}

function along(data, run, steps, against) {
  if (against === "step") return steps;
  if (against !== "seconds") return steps.map((step) => step * data.runs[against][run]);
  const clock = data.curves.steps;
  const [known, seconds] = [clock.steps(run), clock.values(run, "seconds")];
  const last = known.length - 1; // an evaluation comes after the last step that was timed
  return steps.map((step) => interpolated(known, seconds, Math.max(known[0], Math.min(step, known[last]))));
}

/** A configuration's mean over the seeds that got so far, with the lowest and the highest of them. */
function meanLine(data, configuration, view) {
  const members = data.members[configuration].map((run) => runLine(data, run, view)).filter((line) => line.y.length);
  if (!members.length) return null;
  const { steps, x: alone } = members.reduce((longest, line) => (line.y.length > longest.y.length ? line : longest));
  const [x, y, low, high] = [0, 0, 0, 0].map(() => new Float64Array(steps.length));
  for (let i = 0; i < steps.length; i++) {
    const there = (line, values) => (line.steps === steps ? values[i] : interpolated(line.steps, values, steps[i]));
    const values = members.map((line) => there(line, line.y)).filter(Number.isFinite);
    const places = view.against === "seconds" ? members.map((line) => there(line, line.x)).filter(Number.isFinite) : [];
    x[i] = places.length ? mean(places) : alone[i];
    y[i] = values.length ? mean(values) : NaN;
    [low[i], high[i]] = [Math.min(...values), Math.max(...values)];
  }
  return { configuration, steps, x, y, low, high, seeds: members.length };
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The lines of a view of the data: configurations' means, or single runs. */
function makeLines(data, view) {
  const lines = view.single
    ? data.runs.configuration.map((_, run) => runLine(data, run, view))
    : data.members.map((_, configuration) => meanLine(data, configuration, view));
  return lines.filter((line) => line && line.y.length);
}

/** Extent of what an axis shows; a log axis leaves out what is not positive. */
function extent(lines, axis, log) {
  const shown = (value) => Number.isFinite(value) && !(log && value <= 0);
  const values = Float64Array.from(lines.flatMap((line) => [...line[axis]].filter(shown))).sort();
  if (!values.length) return [log ? 1 : 0, 10];
  let [low, high] = [values[0], values[values.length - 1]];
  // A run that diverged must not flatten all others: its line leaves the plot at the top.
  if (axis === "y") high = Math.min(high, 3 * values[Math.floor(0.98 * (values.length - 1))]);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  if (axis === "y" && !log) low -= 0.05 * (high - low); // the ends of the lines do not touch the axis
  return [low, high];
}

/** A linear or logarithmic axis: from data to pixels and back, and round numbers on it. */
function makeScale(log, [low, high], [start, end]) {
  const [to, from] = log ? [Math.log10, (value) => 10 ** value] : [Number, Number];
  const [first, span] = [to(low), to(high) - to(low)];
  const scale = (value) => (log && value <= 0 ? NaN : start + ((to(value) - first) / span) * (end - start));
  scale.invert = (pixel) => from(first + ((pixel - start) / (end - start)) * span);
  scale.ticks = (count) => (log && high / low > 10 ? logTicks(low, high, count) : linearTicks(low, high, count));
  return scale;
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const step = [1, 2, 5, 10].map((digit) => digit * 10 ** Math.floor(Math.log10(rough))).find((size) => size >= 0.999 * rough);
  const from = Math.ceil(low / step);
  return Array.from({ length: Math.max(0, Math.floor(high / step) - from + 1) }, (_, i) => (from + i) * step);
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  const digits = decades > count ? [1] : decades > count / 2 ? [1, 3] : [1, 2, 5];
  const powers = Array.from({ length: Math.ceil(decades) + 2 }, (_, i) => 10 ** (Math.floor(Math.log10(low)) + i));
  return powers.flatMap((power) => digits.map((digit) => digit * power)).filter((tick) => tick >= low && tick <= high);
}

/** The canvas layer in an element; `colourOf(line)`, `nameOf(line)` and `isSelected(line)` are the page's. */
function makeCurves(frame, { colourOf, nameOf, isSelected, onPick, show, ink }) {
  const [base, top] = [0, 1].map(() => document.createElement("canvas"));
  frame.append(top);
  top.tabIndex = 0;
  top.setAttribute("role", "img");
  let [lines, view, scales, size, hovered, whole, zoom, references] = [[], {}, {}, {}, null, null, null, []];

  function update(data, newView) {
    const axes = JSON.stringify([newView.quantity, newView.against, newView.logX, newView.logY]);
    if (axes !== view.axes) zoom = null;
    [view, hovered] = [{ ...newView, axes }, null];
    lines = makeLines(data, view).map((line) => ({ ...line, colour: colourOf(line) }));
    references = data.references[view.quantity] ?? [];
    const bounds = { y: references.filter(([, , bound]) => bound).map(([, value]) => value) };
    whole = [extent(lines, "x", view.logX), extent([...lines, bounds], "y", view.logY)];
    draw();
  }

  function draw() {
    layOut();
    const pen = cleared(base);
    grid(pen);
    pen.clip(inside());
    const faint = lines.length > 200 ? 0.35 : lines.length > MAX_LABELS ? 0.6 : 1;
    const width = lines.length > 200 ? 0.8 : 1.5;
    for (const line of lines) {
      if (line.low && line.seeds > 1 && lines.length <= MAX_BANDS) band(pen, line);
      stroke(pen, line, width, faint);
    }
    drawTop();
  }

  /** A copy of all lines, axes, the selected lines and the hovered one. */
  function drawTop() {
    const chosen = lines.filter(isSelected);
    const pen = cleared(top);
    pen.globalAlpha = chosen.length ? 0.2 : 1;
    pen.drawImage(base, 0, 0, size.width, size.height);
    pen.globalAlpha = 1;
    axes(pen);
    referenceNames(pen);
    pen.save();
    pen.clip(inside());
    for (const line of chosen) {
      if (line.low && line.seeds > 1 && chosen.length <= MAX_BANDS) band(pen, line);
      stroke(pen, line, 2, 1);
    }
    if (hovered) stroke(pen, hovered.line, 3.5, 1);
    pen.restore();
    if (hovered) dot(pen, hovered);
    const labelled = chosen.length ? chosen : lines;
    if (labelled.length <= MAX_LABELS) endLabels(pen, labelled);
  }

  function layOut() {
    const width = frame.clientWidth;
    const names = lines.length <= MAX_LABELS && width > 620 ? 190 : 14;
    size = { width, height: Math.max(260, Math.min(440, width * 0.55)), left: 56, right: names, top: 12, bottom: 42 };
    top.style.height = `${size.height}px`;
    const [x, y] = zoom ?? whole;
    scales = {
      x: makeScale(view.logX, x, [size.left, size.width - size.right]),
      y: makeScale(view.logY, y, [size.height - size.bottom, size.top]),
    };
  }

  function cleared(canvas) {
    const [ratio, pen] = [window.devicePixelRatio || 1, canvas.getContext("2d")];
    [canvas.width, canvas.height] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
    pen.scale(ratio, ratio);
    pen.lineJoin = "round";
    pen.font = FONT;
    return pen;
  }

  function inside() {
    const path = new Path2D();
    path.rect(size.left, 0, size.width - size.left - size.right, size.height - size.bottom);
    return path;
  }

  function trace(pen, x, y) {
    let down = false; // a value that is missing, or has no place on a log axis, interrupts the line
    for (let i = 0; i < x.length; i++) {
      const [px, py] = [scales.x(x[i]), scales.y(y[i])];
      if (!Number.isFinite(px) || !Number.isFinite(py)) down = false;
      else if (down) pen.lineTo(px, py);
      else {
        pen.moveTo(px, py);
        down = true;
      }
    }
  }

  function stroke(pen, line, width, alpha) {
    [pen.strokeStyle, pen.lineWidth, pen.globalAlpha] = [line.colour, width, alpha];
    pen.beginPath();
    trace(pen, line.x, line.y);
    pen.stroke();
    pen.globalAlpha = 1;
  }

  function band(pen, line) {
    [pen.fillStyle, pen.globalAlpha] = [line.colour, 0.15];
    const there = [...line.x.keys()].filter((i) => Number.isFinite(scales.x(line.x[i])) && Number.isFinite(scales.y(line.low[i])) && Number.isFinite(scales.y(line.high[i])));
    pen.beginPath();
    for (const i of there) pen.lineTo(scales.x(line.x[i]), scales.y(line.high[i]));
    for (const i of there.reverse()) pen.lineTo(scales.x(line.x[i]), scales.y(line.low[i]));
    pen.fill();
    pen.globalAlpha = 1;
  }

  function grid(pen) {
    pen.fillStyle = ink("--grid");
    for (const tick of scales.y.ticks(6)) pen.fillRect(size.left, Math.round(scales.y(tick)), size.width - size.left - size.right, 1);
    references.forEach((reference) => referenceLine(pen, reference));
  }

  /** What the source of a synthetic text loses itself, or what compressors and n-grams reach. */
  function referenceLine(pen, [, value]) {
    const y = scales.y(value);
    pen.save();
    pen.clip(inside());
    pen.strokeStyle = ink("--soft");
    pen.setLineDash([2, 4]);
    pen.beginPath();
    pen.moveTo(size.left, y);
    pen.lineTo(size.width - size.right, y);
    pen.stroke();
    pen.restore();
  }

  /** Their names, from the lowest line up: one that would cover the name below it stands higher. */
  function referenceNames(pen) {
    pen.save();
    pen.clip(inside());
    pen.textAlign = "left";
    let last = Infinity;
    for (const [name, value] of [...references].sort(([, one], [, other]) => one - other)) {
      const text = `${name}: ${spell(value)}`;
      last = Math.min(scales.y(value) - 5, last - 14);
      pen.fillStyle = ink("--paper");
      pen.fillRect(size.left + 4, last - 10, pen.measureText(text).width + 4, 13);
      pen.fillStyle = ink("--soft");
      pen.fillText(text, size.left + 6, last);
    }
    pen.restore();
  }

  function axes(pen) {
    const bottom = size.height - size.bottom;
    pen.fillStyle = ink("--soft");
    pen.textAlign = "center";
    for (const tick of scales.x.ticks(size.width / 130)) pen.fillText(spellShort(tick), scales.x(tick), bottom + 17);
    pen.textAlign = "right";
    for (const tick of scales.y.ticks(6)) pen.fillText(spellShort(tick), size.left - 8, scales.y(tick) + 4);
    pen.fillText(AGAINST[view.against], size.width - size.right, bottom + 35);
  }

  function dot(pen, { x, y, line }) {
    pen.fillStyle = line.colour;
    pen.beginPath();
    pen.arc(x, y, 4.5, 0, 7);
    pen.fill();
  }

  /** Names where lines end, pushed apart so that none covers another. */
  function endLabels(pen, labelled) {
    if (size.right < 100) return;
    const ends = labelled.map((line) => ({ line, y: scales.y(line.y.findLast(Number.isFinite)) }));
    ends.sort((a, b) => a.y - b.y);
    pen.textAlign = "left";
    let free = size.top;
    for (const end of ends.filter(({ y }) => Number.isFinite(y))) {
      free = Math.max(free + 14, end.y + 4);
      pen.fillStyle = ink("--ink"); // light colours cannot be read as text
      pen.fillText(shortened(pen, nameOf(end.line), size.right - 12), size.width - size.right + 6, free);
    }
  }

  function shortened(pen, text, width) {
    if (pen.measureText(text).width <= width) return text;
    let length = text.length;
    while (length && pen.measureText(`${text.slice(0, length)}…`).width > width) length--;
    return `${text.slice(0, length)}…`;
  }

  /** The line nearest to a point of the canvas, above or below it, within 40 pixels. */
  function nearest(x, y) {
    const [place, chosen] = [scales.x.invert(x), lines.filter(isSelected)];
    let best = null;
    for (const line of chosen.length ? chosen : lines) {
      const value = interpolated(line.x, line.y, place);
      const distance = Math.abs(scales.y(value) - y);
      if (distance < (best?.distance ?? 40)) best = { line, distance, x, y: scales.y(value), place, value };
    }
    return best;
  }

  function hover(found, event) {
    hovered = found;
    drawTop();
    show(found && describe(found), event);
  }

  function describe({ line, place, value }) {
    const [what, where] = [QUANTITIES[view.quantity][1], `${spell(place)} ${AGAINST[view.against]}`];
    const at = (values) => spell(interpolated(line.x, values, place));
    const seeds = line.seeds > 1 ? `mean of ${line.seeds} seeds, ${at(line.low)} to ${at(line.high)}` : "";
    return [nameOf(line), `${what} ${spell(value)} at ${where}`, seeds].filter(Boolean).join("\n");
  }

  /** Up and down go through the lines in the order in which they end. */
  function step(direction) {
    const ends = lines.map((line) => ({ line, last: line.y.findLastIndex(Number.isFinite) })).filter(({ last }) => last >= 0);
    ends.sort((a, b) => b.line.y[b.last] - a.line.y[a.last]);
    const now = ends.findIndex(({ line }) => line === hovered?.line);
    const { line, last } = ends[Math.max(0, Math.min(ends.length - 1, now + direction))] ?? {};
    if (!line) return;
    const [x, y] = [scales.x(line.x[last]), scales.y(line.y[last])];
    const { left, top: above } = top.getBoundingClientRect();
    hover({ line, x, y, place: line.x[last], value: line.y[last] }, { clientX: left + x, clientY: above + y });
  }

  let start = null;
  top.addEventListener("pointerdown", (event) => { start = [event.offsetX, event.offsetY]; });
  top.addEventListener("pointermove", (event) => hover(nearest(event.offsetX, event.offsetY), event));
  top.addEventListener("pointerleave", () => hover(null));
  top.addEventListener("blur", () => hover(null));
  top.addEventListener("pointerup", (event) => {
    const [x, y] = start ?? [event.offsetX, event.offsetY];
    start = null;
    const [width, height] = [Math.abs(event.offsetX - x), Math.abs(event.offsetY - y)];
    if (width < 5 && height < 5 && hovered) onPick(hovered.line);
    if (width < 10 || height < 10) return;
    const sorted = (scale, a, b) => [scale.invert(a), scale.invert(b)].sort((p, q) => p - q);
    zoom = [sorted(scales.x, x, event.offsetX), sorted(scales.y, y, event.offsetY)];
    draw();
  });
  top.addEventListener("dblclick", () => { zoom = null; draw(); });
  top.addEventListener("keydown", (event) => {
    const direction = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (direction) step(direction);
    else if (event.key === "Enter" && hovered) onPick(hovered.line);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => frame.clientWidth === size.width || draw()).observe(frame);
  return { update, drawTop, lines: () => lines, describe: (text) => top.setAttribute("aria-label", text) };
}

/** Three digits with a decimal prefix, for axes. */
function spellShort(value) {
  const prefix = ["", " k", " M", " G", " T", " P", " E"];
  const power = Math.max(0, Math.min(6, Math.floor(Math.log10(Math.abs(value) || 1) / 3 + 1e-9)));
  return `${Number((value / 1000 ** power).toPrecision(4))}${prefix[power]}`;
}

function spell(value, digits = 5) {
  return new Intl.NumberFormat("en", { maximumSignificantDigits: digits }).format(value);
}

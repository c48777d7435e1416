// The tables of configurations and of runs, by DataTables: sorted, filtered, searched, and selected from.

const STATES = ["done", "running", "pending", "failed", "diverged", "damaged"];
const tables = {};

/** Takes a table of the page over and gives it all rows of the data; its rows are numbers, `kind` says of what. */
function setUpTable(kind) {
  const element = document.getElementById(kind);
  const all = make("input", { type: "checkbox", ariaLabel: "select all rows that the search and the filters leave" });
  const heads = data[kind].columns.map(({ title }) => make("th", { scope: "col", textContent: title }));
  element.querySelectorAll("thead, tbody, .left-out").forEach((part) => part.remove());
  element.append(make("thead", {}, make("tr", {}, make("th", {}, all), ...heads)));
  element.classList.add("compact");
  const table = $(element).DataTable({
    data: [...data[kind].label.keys()],
    columns: [tickColumn(kind), ...data[kind].columns.map((column, i) => describedColumn(kind, i, column))],
    order: [],
    deferRender: true,
    autoWidth: false,
    pageLength: 10,
    lengthMenu: [10, 25, 100, 1000],
    drawCallback: () => tables[kind] && highlight(kind),
    layout: { topStart: "search", topEnd: null, bottomStart: ["pageLength", "info"], bottomEnd: "paging" },
    language: { search: "Search", searchPlaceholder: "levels, ids, states", lengthMenu: "_MENU_ a page",
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

function tickColumn(kind) {
  const tick = (row) => make("input", { type: "checkbox", ariaLabel: `select ${data[kind].label[row]}` });
  const createdCell = (place, _, row) => place.append(tick(row));
  return { data: null, defaultContent: "", orderable: false, searchable: false, columnControl: [], createdCell };
}

function describedColumn(kind, i, { name, numbers }) {
  const isFactor = Boolean(factorNamed(name));
  const words = name === "status" ? STATES : isFactor || name === "seed" ? legend(name).map(([word]) => word) : [];
  const options = words.map((word) => ({ label: escaped(word), value: word })); // else all rows are searched for them
  return {
    className: numbers ? "dt-type-numeric" : "",
    type: sortKeys(kind, i) ? "num" : "string",
    searchable: !numbers || isFactor,
    data: (row, use) => cell(kind, i, row, use),
    columnControl: options.length ? [[{ extend: "searchList", options }]] : [],
  };
}

/** What a column sorts by: its numbers, or its levels' places in the study; words where there is neither. */
function sortKeys(kind, i) {
  const column = data[kind].columns[i];
  const factor = factorNamed(column.name);
  column.order ??= column.numbers ?? (factor && column.words.map((word) => factor.levels.indexOf(word)));
  return column.order;
}

function cell(kind, i, row, use) {
  const { words } = data[kind].columns[i];
  if (use !== "sort" && use !== "type") return escaped(words[row]);
  const keys = sortKeys(kind, i);
  return keys ? keys[row] ?? Infinity : words[row];
}

/** A study's words never become markup: DataTables writes cells, options, and what it searches, as HTML. */
function escaped(word) {
  return /[&<>"]/.test(word) ? $.fn.dataTable.render.text().display(word) : word;
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

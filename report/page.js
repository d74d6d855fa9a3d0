"use strict";
// Draws the profile in #data: time line, flame graph, table. d3 and d3-flame-graph stand in the
// page before this script; nothing is loaded.
(function () {
  const report = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const at = (id) => document.getElementById(id);
  const state = { field: 0, table: "sites", sort: 1, ascending: false, search: "", all: false };
  const ROWS = 40;

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function bytes(value) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    for (; Math.abs(value) >= 1024 && unit < units.length - 1; unit++) value /= 1024;
    return (unit ? value.toFixed(1) : String(Math.round(value))) + " " + units[unit];
  }

  const count = (value) => Math.round(value).toLocaleString("en");

  function readable(value, unit) {
    return unit === "bytes" ? bytes(value) : unit === "milliseconds" ? count(value) + " ms" : count(value);
  }

  const signed = (value, unit) => (value > 0 ? "+" : "") + readable(value, unit);
  const percent = (part, whole) => (whole ? (100 * part / whole).toFixed(1) : "0.0") + " %";

  // ---- what the frames are

  const FUNCTION = 0, FILE = 1, LINE = 2, MODULE = 3, IS_LIBRARY = 4;
  const last = (path) => path.slice(path.lastIndexOf("/") + 1);
  const place = (frame) => frame[FILE] ? last(frame[FILE]) + (frame[LINE] ? ":" + frame[LINE] : "") : last(frame[MODULE]);
  const unit = () => report.fields[state.field].unit;
  const value = (stack) => stack.v[state.field];
  const before = (stack) => report.diff ? stack.b[state.field] : 0;
  const sum = (of) => report.stacks.reduce((total, stack) => total + of(stack), 0);

  function objects() {
    const name = report.fields[state.field].name;
    return name.endsWith("_bytes") ? report.fields.findIndex((f) => f.name === name.replace("_bytes", "_objects")) : -1;
  }

  // ---- rows of the tables

  function siteRows() {
    const rows = new Map();
    const blocks = objects();
    for (const stack of report.stacks) {
      const frame = report.frames[stack.site];
      const key = stack.site;
      if (!rows.has(key)) rows.set(key, { name: frame ? frame[FUNCTION] : "[no stack]", place: frame ? place(frame) : "", value: 0, before: 0, blocks: 0 });
      const row = rows.get(key);
      row.value += value(stack);
      row.before += before(stack);
      row.blocks += blocks < 0 ? 0 : stack.v[blocks];
    }
    return [...rows.values()].filter((row) => row.value || row.before);
  }

  function functionRows() {
    const rows = new Map();
    for (const stack of report.stacks) {
      const seen = new Set();
      stack.s.forEach((id, index) => {
        const frame = report.frames[id];
        const name = frame[FUNCTION];
        if (!rows.has(name)) rows.set(name, { name, place: last(frame[MODULE]), self: 0, value: 0, before: 0 });
        const row = rows.get(name);
        if (index === stack.s.length - 1) row.self += value(stack);
        if (seen.has(name)) return;
        seen.add(name);
        row.value += value(stack);
        row.before += before(stack);
      });
    }
    return [...rows.values()].filter((row) => row.value || row.before);
  }

  // Columns: heading, what is sorted by, text.
  function columns() {
    const title = report.fields[state.field].title;
    const total = sum(value);
    const name = [state.table === "sites" ? "call site" : "function", (row) => row.name, null];
    if (report.diff) {
      return [name,
        ["change", (row) => row.value - row.before, (v) => signed(v, unit())],
        ["before", (row) => row.before, (v) => readable(v, unit())],
        ["after", (row) => row.value, (v) => readable(v, unit())]];
    }
    if (state.table === "sites") {
      const blocks = objects();
      const found = [name,
        [title, (row) => row.value, (v) => readable(v, unit())],
        ["share", (row) => row.value, (v) => percent(v, total)]];
      if (blocks >= 0) found.push([report.fields[blocks].title, (row) => row.blocks, count]);
      return found;
    }
    return [name,
      [title + ", with calls", (row) => row.value, (v) => readable(v, unit())],
      ["share", (row) => row.value, (v) => percent(v, total)],
      ["itself", (row) => row.self, (v) => readable(v, unit())],
      ["share", (row) => row.self, (v) => percent(v, total)]];
  }

  function drawTable() {
    const rows = state.table === "sites" ? siteRows() : functionRows();
    const shown = columns();
    if (state.sort >= shown.length) state.sort = 1;
    const key = shown[state.sort][1];
    const weight = (row) => report.diff && state.sort === 1 && !state.ascending ? Math.abs(key(row)) : key(row);
    rows.sort((a, b) => {
      const x = weight(a), y = weight(b);
      const order = typeof x === "string" ? -x.localeCompare(y) : x - y;
      return state.ascending ? order : -order;
    });
    const head = element("tr");
    shown.forEach(([title], index) => {
      const button = element("button", { type: "button" }, title);
      button.addEventListener("click", () => {
        state.ascending = state.sort === index ? !state.ascending : false;
        state.sort = index;
        drawTable();
      });
      const cell = element("th", { scope: "col" }, button);
      if (index === state.sort) cell.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
      head.append(cell);
    });
    const body = element("tbody");
    for (const row of state.all ? rows : rows.slice(0, ROWS)) {
      const button = element("button", { type: "button" }, row.name, element("span", { class: "dim" }, row.place));
      button.addEventListener("click", () => search(row.name));
      const line = element("tr", {}, element("td", {}, button));
      for (const [title, of, text] of shown.slice(1)) {
        const cell = element("td", {}, text(of(row)));
        if (title === "change") cell.className = of(row) > 0 ? "more" : "less";
        line.append(cell);
      }
      body.append(line);
    }
    at("table").replaceChildren(element("thead", {}, head), body);
    at("all").hidden = state.all || rows.length <= ROWS;
    at("all").textContent = `all ${rows.length} rows`;
    for (const name of ["sites", "functions"]) at(name).setAttribute("aria-pressed", String(state.table === name));
  }

  // ---- the flame graph: outermost call at the top

  function tree() {
    const top = { name: "all", value: 0, delta: 0, frame: null, children: [] };
    for (const stack of report.stacks) {
      const size = value(stack);
      if (size <= 0) continue;
      const delta = size - before(stack);
      let node = top;
      node.value += size;
      node.delta += delta;
      for (const id of stack.s) {
        const frame = report.frames[id];
        node.known = node.known || new Map();
        let child = node.known.get(frame[FUNCTION]);
        if (!child) {
          child = { name: frame[FUNCTION], value: 0, delta: 0, frame, lines: new Set(), children: [] };
          node.known.set(frame[FUNCTION], child);
          node.children.push(child);
        }
        child.lines.add(place(frame));
        child.value += size;
        child.delta += delta;
        node = child;
      }
    }
    return top;
  }

  // What a cell shows; `describe` has the whole name.
  const label = (node) => node.data.name.replaceAll("(anonymous namespace)::", "");
  const CELL = 20;
  const depth = (node) => node.children.reduce((most, child) => Math.max(most, 1 + depth(child)), 0);
  const colour = (name) => `var(--${name})`;

  function fill(node) {
    if (node.highlight) return colour("found");
    const { frame, value: size, delta } = node.data;
    if (report.diff && frame) {
      const part = Math.min(1, Math.abs(delta) / (Math.max(size, size - delta) || 1));
      return `color-mix(in srgb, var(--${delta > 0 ? "grew" : "shrank"}) ${Math.round(100 * part)}%, var(--library))`;
    }
    return colour(frame && !frame[IS_LIBRARY] ? "own" : "library");
  }

  function describe(node) {
    const { name, frame, value: size, delta, lines } = node.data;
    const change = report.diff ? `, ${signed(delta, unit())} since the first profile` : "";
    const where = lines ? " at " + [...lines].slice(0, 4).join(", ") + (frame[MODULE] ? " in " + last(frame[MODULE]) : "") : "";
    return `${name}${where}: ${readable(size, unit())}, ${percent(size, sum((s) => Math.max(0, value(s))))}${change}`;
  }

  let chart = null;
  const HINT = "A click on a function shows it alone, a click on one above it goes back. A click on a row of the table marks the function here.";

  function drawFlames() {
    const folder = at("flames");
    const width = folder.clientWidth;
    folder.replaceChildren();
    const data = tree();
    at("nothing").hidden = data.value > 0;
    chart = null;
    if (data.value <= 0) return;
    chart = d3.flamegraph().getName(label).width(width).cellHeight(CELL).height(CELL * (depth(data) + 1)).inverted(true).minFrameSize(1).transitionDuration(200)
      .sort((a, b) => b.value - a.value).setColorMapper(fill).label(describe)
      .setDetailsHandler((text) => { at("details").textContent = text || at("details").dataset.rest || HINT; })
      .setSearchHandler((found, size) => {
        at("details").dataset.rest = `'${state.search}': ${readable(size, unit())} in ${count(found.length)} places`;
        at("details").textContent = at("details").dataset.rest;
      })
      .setSearchMatch((node, term) => Boolean(term) && node.data.name.toLowerCase().includes(term.toLowerCase()))
      .onClick((node) => {
        at("details").dataset.rest = describe(node);
        at("details").textContent = describe(node);
        at("flames").dataset.zoomed = node.depth ? node.data.name : "";
      });
    d3.select(folder).datum(data).call(chart);
    // At once: a page that is printed, or has just got another width, waits for no transition.
    const drawn = d3.select(folder).selectAll("g.frame");
    drawn.selectAll("rect").interrupt().attr("width", (node) => (node.x1 - node.x0) * width);
    drawn.selectAll("div").interrupt().text(label);
    if (state.search) chart.search(state.search);
    else { delete at("details").dataset.rest; at("details").textContent = HINT; }
  }

  function search(text) {
    state.search = text;
    at("search").value = text;
    if (!chart) return;
    if (text) chart.search(text);
    else { delete at("details").dataset.rest; chart.clear(); }
  }

  // ---- the time line

  function drawTime() {
    if (report.points.length < 2) return;
    at("time").hidden = false;
    const box = at("line");
    box.replaceChildren();
    const width = box.clientWidth, height = 190;
    const margin = { left: 68, right: 12, top: 8, bottom: 26 };
    const points = report.points.map(([ms, live, resident]) => ({ s: ms / 1000, live, resident }));
    const x = d3.scaleLinear().domain([points[0].s, points[points.length - 1].s]).range([margin.left, width - margin.right]);
    const top = Math.max(1, ...points.map((p) => Math.max(p.live, p.resident)));
    const y = d3.scaleLinear().domain([0, top]).range([height - margin.bottom, margin.top]);
    const step = Math.pow(2, Math.ceil(Math.log2(top / 4)));
    const ticks = [];
    for (let tick = 0; tick <= top; tick += step) ticks.push(tick);
    const svg = d3.select(box).append("svg").attr("width", width).attr("height", height).attr("role", "img")
      .attr("aria-label", "live and resident bytes over time");
    svg.append("g").attr("class", "axis").attr("transform", `translate(0,${height - margin.bottom})`)
      .call(d3.axisBottom(x).ticks(Math.max(2, width / 110)).tickFormat((s) => s + " s"));
    svg.append("g").attr("class", "axis").attr("transform", `translate(${margin.left},0)`)
      .call(d3.axisLeft(y).tickValues(ticks).tickFormat((v) => bytes(v)));
    svg.append("path").datum(points).attr("fill", colour("live")).attr("opacity", 0.18)
      .attr("d", d3.area().x((p) => x(p.s)).y0(y(0)).y1((p) => y(p.live)));
    for (const name of ["resident", "live"]) {
      svg.append("path").datum(points).attr("fill", "none").attr("stroke", colour(name)).attr("stroke-width", 2)
        .attr("d", d3.line().x((p) => x(p.s)).y((p) => y(p[name])));
    }
    svg.on("mousemove", (event) => {
      const seconds = x.invert(d3.pointer(event)[0]);
      const near = points.reduce((a, b) => Math.abs(b.s - seconds) < Math.abs(a.s - seconds) ? b : a);
      at("moment").textContent = `${near.s.toFixed(1)} s: ${bytes(near.live)} live, ${bytes(near.resident)} resident`;
    });
  }

  // ---- the rest of the page

  function sentence() {
    const rows = siteRows();
    const title = report.fields[state.field].title;
    if (!rows.length) return `Nothing is ${title}. 'Show' above has other moments and counts.`;
    const named = (row) => row.name + (row.place ? ` (${row.place})` : "");
    const field = report.fields[state.field];
    if (report.diff) {
      rows.sort((a, b) => (b.value - b.before) - (a.value - a.before));
      const change = sum(value) - sum(before);
      const most = rows[0];
      return `${field.title}: ${signed(change, unit())} between the two profiles. ` + (most.value > most.before
        ? `Most of the growth: ${named(most)}, ${signed(most.value - most.before, unit())}.` : "No call site grew.");
    }
    rows.sort((a, b) => b.value - a.value);
    return `${named(rows[0])} has ${percent(rows[0].value, sum(value))} of what is ${field.title}: ` +
      `${readable(rows[0].value, unit())} of ${readable(sum(value), unit())}.`;
  }

  function drawHead() {
    const facts = (p) => `pid ${p.pid}, ${p.reason ? "written at " + p.reason + " " : ""}after ${(p.elapsed_ms / 1000).toFixed(1)} s: ` +
      `${bytes(p.live)} live, ${bytes(p.resident)} resident` +
      (p.partial ? "; what was allocated before it was sampled is not in it" : "") + (p.whole ? "" : "; the file was cut off");
    const rows = report.diff ? [["before", facts(report.before)], ["after", facts(report.after)]] : [["profile", facts(report.after)]];
    if (report.after.period) rows.push(["estimates", `one sample in ${bytes(report.after.period)} of allocated memory`]);
    if (report.complaints.length) rows.push(["no names", report.complaints.join("; ")]);
    at("facts").replaceChildren(...rows.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
    at("legend").replaceChildren(...(report.diff ? [["grew", "grew"], ["shrank", "shrank"], ["library", "unchanged"]]
      : [["own", "the program's own code"], ["library", "libraries, functions around malloc"]])
      .flatMap(([name, text]) => [element("span", { class: "key", style: `background: ${colour(name)}` }), text]));
  }

  function draw() {
    at("verdict").textContent = sentence();
    drawTable();
    drawFlames();
  }

  function setTheme(name) {
    root.dataset.theme = name;
  }

  const asked = /theme=(light|dark)/.exec(location.hash);
  setTheme(asked ? asked[1] : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  at("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
  report.fields.forEach((field, index) => at("field").append(element("option", { value: index }, field.title)));
  state.field = report.chosen;
  at("field").value = String(state.field);
  at("field").addEventListener("change", () => { state.field = Number(at("field").value); draw(); });
  for (const name of ["sites", "functions"]) {
    at(name).addEventListener("click", () => { state.table = name; state.sort = 1; state.ascending = false; drawTable(); });
  }
  at("all").addEventListener("click", () => { state.all = true; drawTable(); });
  at("search").addEventListener("input", () => search(at("search").value));
  at("reset").addEventListener("click", () => { search(""); drawFlames(); at("flames").dataset.zoomed = ""; });
  let width = root.clientWidth;
  addEventListener("resize", () => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    drawFlames();
    drawTime();
  });
  drawHead();
  draw();
  drawTime();
  root.dataset.drawn = "yes";
})();

"use strict";
// Draws the report in #data: overview, heat map, scaling, all numbers, and a workload when it is
// clicked. Charts and sorting come from the libraries in vendor/charts.js, `charts` here.
(function () {
  const report = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const root = document.documentElement;
  // Not an allocator that one could use: what the workload itself costs, drawn as a dashed line.
  const LIMIT = "null";
  const COLOURS = {
    hakmem: "#d9480f", hakmem_static: "#f08c00", jemalloc: "#1c7ed6", mimalloc: "#2f9e44", tcmalloc: "#9c36b5",
    tbbmalloc: "#0c8599", glibc: "#868e96", null: "#adb5bd",
  };
  const MORE_COLOURS = ["#e64980", "#5c940d", "#6741d9", "#a0522d", "#0b7285", "#c2a000"];
  const allocators = [...new Set(report.workloads.flatMap((part) => part.allocators.map((row) => row.allocator)))].sort(
    (a, b) => order(a) - order(b) || (a < b ? -1 : 1));
  const real = allocators.filter((name) => name !== LIMIT);
  const others = real.filter((name) => !(name in COLOURS));
  // One colour an allocator, everywhere and in every order.
  const colour = (name) => COLOURS[name] || MORE_COLOURS[others.indexOf(name) % MORE_COLOURS.length];
  const row = (part, name) => part.allocators.find((one) => one.allocator === name);
  const geomean = (values) => Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);

  function order(name) {
    const place = Object.keys(COLOURS).indexOf(name);
    return place < 0 ? 99 : place;
  }

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function short(value) {
    if (value === undefined || value === null) return "-";
    const size = Math.abs(value), three = (number) => String(Number(number.toPrecision(3)));
    for (const [unit, name] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]])
      if (size >= unit) return three(value / (name === " k" ? 1e3 : unit)) + name;
    return size >= 100 ? String(Math.round(value)) : three(value);
  }

  function ratio(value) {
    return value >= 9.95 ? value.toFixed(0) : value >= 1.995 ? value.toFixed(1) : value.toFixed(2);
  }

  const swatch = (name) => element("span", { class: "swatch", "data-of": name, style: `background:${colour(name)}` });

  function legend(names) {
    return element("p", { class: "legend" }, ...names.map((name) => element("span", {}, swatch(name), name === LIMIT ? "limit" : name)));
  }

  // Charts are as wide as the place that they get, so that their words are never made small.
  const chartWidth = (most) => Math.max(260, Math.min(most, root.clientWidth - 62));

  function chart(label, options) {
    const made = charts.plot({ width: chartWidth(560), height: 280, marginLeft: 54, marginBottom: 38, marginRight: 14,
      ariaLabel: label, style: { background: "transparent", fontSize: "12px", overflow: "visible" }, ...options });
    made.setAttribute("role", "img");
    return made;
  }

  function lines(label, series, options) {
    const points = series.flatMap((one) => one.points.map((p) => ({ name: one.name, x: p[0], y: p[1] })));
    const few = points.filter((p) => series.find((one) => one.name === p.name).points.length <= 12);
    return chart(label, {
      x: { label: options.xName, ...options.x }, y: { label: options.yName, grid: true, nice: true, tickFormat: short, ...options.y },
      marks: [
        ...(options.y && options.y.type === "log" ? [] : [charts.ruleY([0], { strokeOpacity: 0.4 })]),
        charts.line(points.filter((p) => p.name !== LIMIT), { x: "x", y: "y", z: "name", stroke: (p) => colour(p.name),
          strokeWidth: (p) => (p.name === "hakmem" ? 3 : 1.7) }),
        charts.line(points.filter((p) => p.name === LIMIT), { x: "x", y: "y", stroke: colour(LIMIT), strokeDasharray: "5 4" }),
        charts.dot(few, { x: "x", y: "y", r: 3.5, fill: (p) => colour(p.name), title: (p) => `${p.name}: ${short(p.y)}` }),
      ],
    });
  }

  function section(title, text) {
    const cards = element("div", { class: "cards" });
    main.append(element("h2", {}, title), element("p", {}, text), cards);
    return (name, about, ...content) =>
      cards.append(element("div", { class: "card" }, element("h3", {}, name), element("p", {}, about), ...content));
  }

  function cellsOf(kind, values) {
    return values.map((value) => element(kind, kind === "th" ? { scope: "col" } : typeof value === "object" && value ? { "data-sort": value.sort } : {},
      typeof value === "object" && value ? value.text : value === undefined || value === null ? "-" : String(value)));
  }

  // A table whose headings sort it; cells are texts, or {text, sort}.
  function table(heads, rows, attributes) {
    const body = element("tbody", {}, ...rows.map((values) => element("tr", {}, ...cellsOf("td", values))));
    const made = element("table", { class: "sortable asc n-last", ...attributes }, element("thead", {}, element("tr", {}, ...cellsOf("th", heads))), body);
    byKeyboard(made);
    return made;
  }

  function byKeyboard(made) {
    for (const head of made.querySelectorAll("th")) {
      head.tabIndex = 0;
      head.addEventListener("keydown", (event) => event.key === "Enter" && head.click());
    }
  }

  const figure = (value, digits) => (value === undefined || value === null ? { text: "-", sort: "" } :
    { text: digits === undefined ? short(value) : value.toFixed(digits), sort: value });

  function about() {
    const m = report.machine, list = element("dl");
    const add = (name, value) => value && list.append(element("dt", {}, name), element("dd", {}, String(value)));
    add("machine", `${m.cpu}, ${m.cpus} CPUs, ${m.memory_mib} MiB`);
    add("kernel", `Linux ${m.kernel}; transparent huge pages: ${m.huge_pages}`);
    add("compiler", m.compiler);
    add("versions", Object.entries(m.versions || {}).filter((v) => v[1]).map((v) => v.join(" ")).join(", "));
    add("noise before", report.noise && `a fixed loop: ${(report.noise.spread * 100).toFixed(1)} % between the quartiles, ` +
      `worst ${(report.noise.worst * 100).toFixed(1)} % above the median`);
    add("date", m.date);
    add("repeat", report.command);
    add("skipped", (report.skipped || []).join("; "));
    main.append(element("details", { open: "" }, element("summary", {}, "Machine and versions"), list));
  }

  const least = (part) => Math.min(...part.allocators.filter((r) => r.allocator !== LIMIT).map((r) => r.peak_kib.median));
  const MEASURES = {
    time: (part, r) => r.to_best,
    memory: (part, r) => r.peak_kib.median / least(part),
  };

  const meets = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

  // Names of dots, each in the first place near its dot that is free of dots and of other names; a
  // name that finds none goes further out, and a line leads to it.
  function nameDots(svg, dots, width, height) {
    const taken = dots.map((d) => ({ x: d.x - d.r - 1, y: d.y - d.r - 1, w: 2 * d.r + 2, h: 2 * d.r + 2 }));
    const draw = (name, attributes, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text) made.textContent = text;
      svg.append(made);
      return made;
    };
    for (const d of dots) {
      const w = 7.4 * d.name.length + 4, h = 17;
      const places = [];
      for (let out = d.r + 4; out < 150; out += 6)
        for (const [right, down] of [[1, 0], [-1, 0], [0, -1], [0, 1], [0.8, -0.8], [0.8, 0.8], [-0.8, -0.8], [-0.8, 0.8]])
          places.push({ out, w, h, x: d.x + right * out - (right > 0 ? 0 : right < 0 ? w : w / 2), y: d.y + down * (out + h / 2) - h / 2 });
      const free = places.find((p) => p.x >= 46 && p.x + w <= width && p.y >= 0 && p.y + h <= height - 34 && !taken.some((t) => meets(p, t)));
      const at = free || places[0];
      taken.push(at);
      if (at.out > d.r + 16) draw("line", { x1: d.x, y1: d.y, x2: at.x + (at.x > d.x ? 0 : w), y2: at.y + h / 2, stroke: "currentColor", "stroke-opacity": 0.4 });
      draw("text", { x: at.x + 2, y: at.y + 13, class: "name", "text-anchor": "start", fill: "currentColor", "font-size": "13px" }, d.name);
    }
  }

  // Time and peak memory, each over the best of the real allocators, geometric mean over the
  // workloads that all share.
  function overview() {
    const add = section("Overview", "Time and peak memory over the best real allocator's at each workload: fast and small is the corner at the lower left.");
    const shared = report.workloads.filter((part) => real.every((name) => row(part, name)));
    const parts = shared.length ? shared : report.workloads;
    const points = real.map((name) => ({ name, mine: parts.filter((part) => row(part, name)) })).filter((one) => one.mine.length)
      .map(({ name, mine }) => ({ name, r: name === "hakmem" ? 8 : 6, x: geomean(mine.map((part) => MEASURES.time(part, row(part, name)))),
        y: geomean(mine.map((part) => MEASURES.memory(part, row(part, name)))) }));
    const high = (key) => Math.max(1.1, ...points.map((p) => p[key])) * 1.06;
    const width = chartWidth(560), height = 340;
    const svg = chart("time against memory", { width, height, x: { label: "time (1 is the best)", domain: [0.95, high("x")], grid: true },
      y: { label: "peak memory (1 is the best)", domain: [0.95, high("y")], grid: true },
      marks: [charts.dot(points, { x: "x", y: "y", r: "r", fill: (p) => colour(p.name),
        title: (p) => `${p.name}: time ${p.x.toFixed(3)}, memory ${p.y.toFixed(3)}` })], r: { type: "identity" } });
    const x = svg.scale("x"), y = svg.scale("y");
    nameDots(svg, points.map((p) => ({ name: p.name, r: p.r, x: x.apply(p.x), y: y.apply(p.y) })), width, height);
    add("Time and memory", `geometric mean over ${parts.length} workloads`, svg);
    const rows = Object.entries(report.overall || {}).map(([name, one]) => [name,
      figure(one.time_to_ours, 3), figure(one.cpu_to_ours, 3), figure(one.peak_to_ours, 3),
      Object.entries(one.verdicts).map((v) => `${v[0]} ${v[1]}`).join(", ")]);
    if (rows.length) add("Over hakmem's", "geometric means over the shared workloads; above 1: hakmem is ahead",
      table(["allocator", "time", "CPU time", "peak memory", "hakmem is"], rows, { class: "sortable asc n-last narrow" }));
  }

  // Workloads by allocators: a cell is the time (or peak memory) over the best one's of its row.
  function heatMap() {
    main.append(element("h2", {}, "Workloads"), element("p", {}, "Each cell is over the best of its row: 1.00 is the best, 2.0 needs twice as much. " +
      "A heading sorts; a workload opens its runs, memory over time and latencies." + (report.core ? " The core set, which gives the verdict, is bold." : "")));
    const choice = element("p", { class: "choice", role: "group", "aria-label": "what the cells show" });
    const body = element("tbody"), cells = [];
    for (const part of report.workloads) {
      const open = element("button", { type: "button", class: "open" }, part.workload);
      open.addEventListener("click", () => show(part.workload));
      const line = element("tr", part.is_breadth === false && report.core ? { class: "core" } : {}, element("td", { "data-sort": part.workload }, open));
      for (const name of real) {
        const cell = element("td", { class: "heat" });
        cells.push({ cell, part, name });
        line.append(cell);
      }
      body.append(line);
    }
    const head = element("tr", {}, element("th", { scope: "col" }, "workload"),
      ...real.map((name) => element("th", { scope: "col", "data-allocator": name }, element("span", {}, swatch(name), name))));
    const made = element("table", { class: "sortable asc n-last", id: "heat" }, element("thead", {}, head), body);
    byKeyboard(made);
    function fill(measure) {
      for (const { cell, part, name } of cells) {
        const mine = row(part, name), value = mine && MEASURES[measure](part, mine);
        cell.textContent = value ? ratio(value) : "-";
        cell.dataset.sort = value || "";
        cell.classList.toggle("best", value < 1.0005);
        cell.style.setProperty("--part", value ? `${Math.round(Math.min(Math.log2(value) / 2, 1) * 100)}%` : "0%");
        cell.title = `${part.workload} under ${name}: ` + (!mine ? "not measured" : measure === "time" ?
          `${short(mine.throughput.median)} ${part.unit}/s` : `${short(mine.peak_kib.median / 1024)} MiB`);
      }
      for (const button of choice.children) button.setAttribute("aria-pressed", String(button.dataset.measure === measure));
      const sorted = made.querySelector("th[aria-sort]");
      if (sorted) sorted.removeAttribute("aria-sort"); // the order stays; it is no longer that of the values
    }
    for (const measure of Object.keys(MEASURES)) {
      const button = element("button", { type: "button", "data-measure": measure }, measure);
      button.addEventListener("click", () => fill(measure));
      choice.append(button);
    }
    fill("time");
    main.append(choice, element("div", { class: "card" }, made));
  }

  function scaling() {
    const families = {};
    for (const part of report.workloads) if (part.scaling) (families[part.scaling] = families[part.scaling] || []).push(part);
    const usable = Object.entries(families).filter((one) => one[1].length > 1);
    if (!usable.length) return;
    const add = section("Scaling", "Throughput by the number of threads.");
    for (const [name, parts] of usable) {
      parts.sort((a, b) => a.threads - b.threads);
      const threads = parts.map((part) => part.threads);
      const series = allocators.map((allocator) => ({ name: allocator,
        points: parts.filter((p) => row(p, allocator)).map((p) => [p.threads, row(p, allocator).throughput.median]) })).filter((s) => s.points.length);
      add(name, `${report.machine.cpus} CPUs`, lines(name, series, { xName: "threads", yName: parts[0].unit + "/s",
        x: { ticks: [...new Set(threads)], tickFormat: String, domain: [0, Math.max(...threads) * 1.05] } }), legend(series.map((s) => s.name)));
    }
  }

  function runsOf(part) {
    const rows = part.allocators.filter((r) => r.allocator !== LIMIT), limit = row(part, LIMIT);
    const fastest = Math.max(...rows.map((r) => Math.max(r.throughput.high, ...r.values)));
    const bound = limit && limit.throughput.median < fastest * 1.5 ? [limit.throughput.median] : [];
    const runs = rows.flatMap((r) => r.values.map((value) => ({ name: r.allocator, value })));
    return chart("runs", { height: rows.length * 30 + 46, marginLeft: 92, marginTop: 4,
      x: { label: part.unit + "/s", domain: [0, Math.max(fastest, ...bound) * 1.02], grid: true, tickFormat: short, ticks: 5 },
      y: { label: null, domain: rows.map((r) => r.allocator) },
      marks: [
        charts.ruleX(bound, { strokeDasharray: "5 4", stroke: "currentColor", title: () => `the limit: ${short(bound[0])} ${part.unit}/s` }),
        charts.dot(runs, { x: "value", y: "name", r: 3, fill: (d) => colour(d.name), fillOpacity: 0.55 }),
        charts.link(rows, { x1: (r) => r.throughput.low, x2: (r) => r.throughput.high, y1: "allocator", y2: "allocator",
          stroke: (r) => colour(r.allocator), strokeWidth: 2 }),
        charts.tickX(rows, { x: (r) => r.throughput.median, y: "allocator", stroke: (r) => colour(r.allocator), strokeWidth: 3,
          title: (r) => `${r.allocator}: ${short(r.throughput.median)} ${part.unit}/s (${short(r.throughput.low)} to ${short(r.throughput.high)})` }),
      ] });
  }

  function memoryOf(part) {
    const series = part.allocators.filter((r) => r.memory && r.memory.kib.length > 1).map((r) => ({ name: r.allocator,
      points: r.memory.kib.map((kib, i) => [((i + 1) * r.memory.interval_ms) / 1000, kib / 1024]) }));
    return series.length ? lines("memory over time", series, { xName: "seconds", yName: "MiB" }) : null;
  }

  function latencyOf(part) {
    const names = ["p50", "p90", "p99", "p99.9", "p99.99"];
    const series = part.allocators.filter((r) => r.latency_ns).map((r) => ({ name: r.allocator,
      points: names.map((name) => [name, Math.max(r.latency_ns[name], 1)]) }));
    return series.length ? lines("latency", series, { xName: "share of the calls", yName: "nanoseconds", y: { type: "log", ticks: 4 },
      x: { type: "point", domain: names, padding: 0.2 } }) : null;
  }

  const NUMBERS = [
    ["median/s", (p, r) => figure(r.throughput.median)], ["low", (p, r) => figure(r.throughput.low)], ["high", (p, r) => figure(r.throughput.high)],
    ["to best", (p, r) => figure(r.to_best, 2)], ["to limit", (p, r) => figure(r.to_limit, 2)], ["peak MiB", (p, r) => figure(r.peak_kib.median / 1024)],
    ["settled MiB", (p, r) => figure(r.settled_kib && r.settled_kib.median / 1024)], ["CPU s", (p, r) => figure(r.cpu_s && r.cpu_s.median)],
    ["faults", (p, r) => figure(r.minor_faults && r.minor_faults.median)], ["resident/live", (p, r) => figure(r.fragmentation && r.fragmentation.median)],
    ["instructions", (p, r) => figure(r.instructions)], ["hakmem against it", (p, r) => figure(r.ours_against_it && r.ours_against_it.ratio)],
    ["verdict", (p, r) => (r.ours_against_it || {}).verdict],
    ["would have seen %", (p, r) => figure(r.ours_against_it && r.ours_against_it.smallest_effect && r.ours_against_it.smallest_effect * 100)],
  ];

  function numbers(parts, withWorkload, attributes) {
    const pairs = parts.flatMap((part) => part.allocators.map((r) => [part, r]));
    const isThere = (value) => value !== undefined && value !== null && value.text !== "-";
    const used = NUMBERS.filter((column) => pairs.some(([p, r]) => isThere(column[1](p, r))));
    return table([...(withWorkload ? ["workload"] : []), "allocator", ...used.map((column) => column[0])],
      pairs.map(([p, r]) => [...(withWorkload ? [p.workload] : []), r.allocator, ...used.map((column) => column[1](p, r))]), attributes);
  }

  // A workload's own page, over the others.
  const dialog = element("dialog", { id: "workload", "aria-labelledby": "workload-name" });
  function show(name) {
    const part = report.workloads.find((one) => one.workload === name);
    if (!part) return;
    const warm = part.left_out ? `; the first ${part.left_out} left out as warm-up` : "";
    const close = element("button", { type: "button", class: "close" }, "close");
    close.addEventListener("click", () => dialog.close());
    const cards = element("div", { class: "cards" });
    const add = (title, about, content) => content &&
      cards.append(element("div", { class: "card" }, element("h3", {}, title), element("p", {}, about), content));
    dialog.replaceChildren(element("header", {}, element("h2", { id: "workload-name" }, part.workload), close),
      element("p", {}, `${part.text}; ${part.rounds} runs each${warm}; ${part.mode} arguments: ${part.arguments.join(" ")}`),
      legend(part.allocators.map((r) => r.allocator)), cards);
    if (!dialog.open) dialog.showModal();
    add("Runs", "each run a dot, the median a tick, its interval a line; dashed: the limit", runsOf(part));
    add("Memory over time", "resident memory of the run nearest to the median", memoryOf(part));
    add("Latency of single calls", "each call timed by itself, the clock's cost included; median of the runs", latencyOf(part));
    dialog.append(element("div", { class: "card scroll", tabindex: 0 }, numbers([part], false, {})));
    dialog.scrollTop = 0;
    history.replaceState(null, "", "#workload=" + encodeURIComponent(name));
  }
  dialog.addEventListener("close", () => history.replaceState(null, "", "#"));

  function allNumbers() {
    main.append(element("h2", {}, "All numbers"), element("p", {}, "A heading sorts by it."),
      element("div", { class: "card scroll", tabindex: 0 }, numbers(report.workloads, true, { id: "table" })));
  }

  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = /theme=(dark|light)/.test(location.hash) ? RegExp.$1 : dark ? "dark" : "light";
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });
  overview(); heatMap(); scaling(); allNumbers(); about();
  document.body.append(dialog);
  const asked = /workload=([^&]+)/.exec(location.hash);
  if (asked) show(decodeURIComponent(asked[1]));
  root.dataset.drawn = "yes";
})();

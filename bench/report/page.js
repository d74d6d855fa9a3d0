"use strict";
// Draws the report in #data: scatter, bars, scaling, memory over time, latencies, table. No
// library, no network.
(function () {
  const report = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const COLOURS = {
    hakmem: "#d9480f", hakmem_static: "#f08c00", jemalloc: "#1c7ed6", mimalloc: "#2f9e44", tcmalloc: "#9c36b5",
    tbbmalloc: "#0c8599", glibc: "#868e96", null: "#adb5bd",
  };
  // Not an allocator that one could use: what the workload itself costs, drawn as a dashed line.
  const LIMIT = "null";
  const colour = (name) => COLOURS[name] || "#868e96";

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(parent, name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function canvas(width, height, label) {
    return drawn(document.createDocumentFragment(), "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  }

  const hint = (shape, text) => drawn(shape, "title", {}, text);

  function short(value) {
    if (value === undefined || value === null) return "-";
    const size = Math.abs(value);
    if (size >= 1e9) return (value / 1e9).toPrecision(3) + " G";
    if (size >= 1e6) return (value / 1e6).toPrecision(3) + " M";
    if (size >= 1e4) return (value / 1e3).toPrecision(3) + " k";
    return size >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3);
  }

  // Round values between low and high, about `wanted` of them.
  function ticks(low, high, wanted) {
    const span = high - low || 1;
    const power = Math.pow(10, Math.floor(Math.log10(span / wanted)));
    const step = [1, 2, 5, 10].map((n) => n * power).find((s) => span / s <= wanted) || power * 10;
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const n of [1, 2, 5]) {
        const value = n * Math.pow(10, power);
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    return found.length > 1 ? found : ticks(low, high, 5);
  }

  // A frame with axes: {svg, x, y} with x and y from values to places.
  function frame(label, xs, ys, options) {
    const width = 560, height = options.height || 300, left = 62, right = 18, top = 14, bottom = 44;
    const svg = canvas(width, height, label);
    const scale = (range, from, to, log) => {
      const f = log ? Math.log : (v) => v;
      const low = f(range[0]), span = f(range[1]) - low || 1;
      return (value) => from + ((f(value) - low) / span) * (to - from);
    };
    const x = scale(xs, left, width - right, options.logX);
    const y = scale(ys, height - bottom, top, options.logY);
    for (const tick of options.xTicks || (options.logX ? logTicks(...xs) : ticks(...xs, 6))) {
      drawn(svg, "line", { x1: x(tick), x2: x(tick), y1: top, y2: height - bottom, class: "grid" });
      drawn(svg, "text", { x: x(tick), y: height - bottom + 16, "text-anchor": "middle", class: "dim" },
        options.xText ? options.xText(tick) : short(tick));
    }
    for (const tick of options.logY ? logTicks(...ys) : ticks(...ys, 6)) {
      drawn(svg, "line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "grid" });
      drawn(svg, "text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end", class: "dim" }, short(tick));
    }
    drawn(svg, "text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle", class: "dim" }, options.xName);
    drawn(svg, "text", { x: 14, y: (top + height - bottom) / 2, "text-anchor": "middle", class: "dim",
      transform: `rotate(-90 14 ${(top + height - bottom) / 2})` }, options.yName);
    return { svg, x, y };
  }

  // Lines, one a series {name, points: [[x, y], ...]}, each named at its end.
  function lines(label, series, options) {
    const all = series.flatMap((one) => one.points);
    const range = (place, log) => {
      const values = all.map((point) => point[place]);
      const low = Math.min(...values), high = Math.max(...values);
      return log ? [low / 1.1, high * 1.1] : [0, high * 1.05 || 1];
    };
    const xs = options.xs || range(0, options.logX);
    const made = frame(label, xs, range(1, options.logY), options);
    for (const one of series) {
      drawn(made.svg, "polyline", { points: one.points.map((p) => `${made.x(p[0])},${made.y(p[1])}`).join(" "),
        fill: "none", stroke: colour(one.name), "stroke-width": one.name === "hakmem" ? 3 : 1.6,
        "stroke-dasharray": one.name === LIMIT ? "5 4" : "none" });
      if (one.points.length <= 12)
        for (const p of one.points)
          hint(drawn(made.svg, "circle", { cx: made.x(p[0]), cy: made.y(p[1]), r: 3.5, fill: colour(one.name) }),
            `${one.name}: ${short(p[1])}`);
    }
    return made.svg;
  }

  function legend(names) {
    const made = element("p");
    for (const name of names) {
      made.append(element("span", { style: `color:${colour(name)}` }, "\u25a0 "), name + "\u2003");
    }
    return made;
  }

  function section(title, text) {
    const cards = element("div", { class: "cards" });
    main.append(element("h2", {}, title), element("p", {}, text), cards);
    return (name, about, ...content) =>
      cards.append(element("div", { class: "card" }, element("h3", {}, name), element("p", {}, about), ...content));
  }

  const allocators = [...new Set(report.workloads.flatMap((part) => part.allocators.map((row) => row.allocator)))];
  const row = (part, name) => part.allocators.find((one) => one.allocator === name);
  const geomean = (values) => Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);

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
    main.append(list);
  }

  // Time and peak memory, each over the best of the real allocators, geometric mean over the
  // workloads that all share.
  function overview() {
    const add = section("Overview", "Time and peak memory over the best real allocator's at each workload: fast and small is the corner at the lower left.");
    const shared = report.workloads.filter((part) => allocators.every((name) => name === LIMIT || row(part, name)));
    const parts = shared.length ? shared : report.workloads;
    const points = [];
    for (const name of allocators) {
      const mine = parts.filter((part) => row(part, name));
      if (!mine.length || name === LIMIT) continue;
      const least = (part) => Math.min(...part.allocators.filter((r) => r.allocator !== LIMIT).map((r) => r.peak_kib.median));
      points.push({ name, x: geomean(mine.map((part) => row(part, name).to_best)),
        y: geomean(mine.map((part) => row(part, name).peak_kib.median / least(part))) });
    }
    const high = (key) => Math.max(1.1, ...points.map((p) => p[key])) * 1.08;
    const made = frame("time against memory", [0.95, high("x")], [0.95, high("y")],
      { xName: "time (1 is the best)", yName: "peak memory (1 is the best)", height: 340 });
    for (const p of points) {
      const dot = drawn(made.svg, "circle", { cx: made.x(p.x), cy: made.y(p.y), r: p.name === "hakmem" ? 8 : 6, fill: colour(p.name) });
      hint(dot, `${p.name}: time ${p.x.toFixed(3)}, memory ${p.y.toFixed(3)}`);
      const nearRight = made.x(p.x) > 470;
      drawn(made.svg, "text", { x: made.x(p.x) + (nearRight ? -11 : 11), y: made.y(p.y) - 7,
        "text-anchor": nearRight ? "end" : "start" }, p.name);
    }
    add("Time and memory", `geometric mean over ${parts.length} workloads`, made.svg);

    const table = element("table", {}, element("tr", {}, ...["allocator", "hakmem is", "time", "CPU time", "peak memory"].map((t) => element("th", {}, t))));
    for (const [name, one] of Object.entries(report.overall || {}))
      table.append(element("tr", {}, element("td", {}, name),
        element("td", {}, Object.entries(one.verdicts).map((v) => `${v[0]} ${v[1]}`).join(", ")),
        element("td", {}, one.time_to_ours.toFixed(3)),
        element("td", {}, one.cpu_to_ours ? one.cpu_to_ours.toFixed(3) : "-"), element("td", {}, one.peak_to_ours.toFixed(3))));
    add("Over hakmem's", "geometric means over the shared workloads; above 1: hakmem is ahead", element("div", { class: "scroll" }, table));
  }

  function bars() {
    const add = section("Workloads", "Throughput: the median, its interval as a whisker, and each run as a dot.");
    for (const part of report.workloads) {
      const rows = part.allocators.filter((r) => r.allocator !== LIMIT), limit = row(part, LIMIT);
      if (!rows.length) continue;
      const step = 27, width = 560, left = 100, right = 66, height = rows.length * step + 6;
      const svg = canvas(width, height, part.workload);
      const fastest = Math.max(...rows.map((r) => Math.max(r.throughput.high, ...r.values)));
      const bound = limit && limit.throughput.median, isNear = bound && bound < fastest * 1.5;
      const most = isNear ? Math.max(fastest, bound) : fastest;
      const x = (value) => left + (value / most) * (width - left - right);
      rows.forEach((r, i) => {
        const y = i * step + 4, middle = y + 10, speed = r.throughput;
        drawn(svg, "text", { x: left - 8, y: middle + 4, "text-anchor": "end" }, r.allocator);
        const bar = drawn(svg, "rect", { x: left, y, width: Math.max(x(speed.median) - left, 1), height: 20, rx: 3,
          fill: colour(r.allocator), opacity: r.allocator === "hakmem" ? 0.9 : 0.6 });
        hint(bar, `${r.allocator}: ${short(speed.median)} ${part.unit}/s (${short(speed.low)} to ${short(speed.high)})`);
        drawn(svg, "path", { d: `M${x(speed.low)},${middle}H${x(speed.high)}M${x(speed.low)},${y + 4}v12M${x(speed.high)},${y + 4}v12`,
          stroke: "currentColor", "stroke-width": 1.4, fill: "none" });
        for (const value of r.values) drawn(svg, "circle", { cx: x(value), cy: middle, r: 1.6, fill: "currentColor", opacity: 0.45 });
        drawn(svg, "text", { x: width - right + 8, y: middle + 4, class: "dim" }, short(speed.median));
      });
      if (isNear) hint(drawn(svg, "line", { x1: x(bound), x2: x(bound), y1: 0, y2: height, class: "limit", stroke: "currentColor", "stroke-dasharray": "5 4" }),
        `the limit: ${short(bound)} ${part.unit}/s`);
      const warm = part.left_out ? `, the first ${part.left_out} left out as warm-up` : "";
      const ceiling = bound ? `; limit, what the work itself costs: ${short(bound)} ${part.unit}/s${isNear ? " (dashed)" : ""}` : "";
      add(part.workload, `${part.text}; ${part.rounds} runs${warm}${ceiling}`, svg);
    }
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
        xTicks: threads, xs: [0, Math.max(...threads) * 1.05] }), legend(series.map((s) => s.name)));
    }
  }

  function memory() {
    const add = section("Memory over time", "Resident memory of the run nearest to the median, sampled by another process.");
    for (const part of report.workloads) {
      const series = part.allocators.filter((r) => r.memory && r.memory.kib.length > 1).map((r) => ({ name: r.allocator,
        points: r.memory.kib.map((kib, i) => [((i + 1) * r.memory.interval_ms) / 1000, kib / 1024]) }));
      if (series.length) add(part.workload, part.text, lines(part.workload, series, { xName: "seconds", yName: "MiB" }), legend(series.map((s) => s.name)));
    }
  }

  function latency() {
    const parts = report.workloads.filter((part) => part.allocators.some((r) => r.latency_ns));
    if (!parts.length) return;
    const add = section("Latency of single calls", "Each call timed by itself, the clock's cost included; median of the runs.");
    for (const part of parts) {
      const names = ["p50", "p90", "p99", "p99.9", "p99.99"];
      const series = part.allocators.filter((r) => r.latency_ns).map((r) => ({ name: r.allocator,
        points: names.map((name, i) => [i, Math.max(r.latency_ns[name], 1)]) }));
      add(part.workload, part.text, lines(part.workload, series, { xName: "share of the calls", yName: "nanoseconds", logY: true,
        xs: [-0.2, 4.2], xTicks: [0, 1, 2, 3, 4], xText: (i) => names[i] }), legend(series.map((s) => s.name)));
    }
  }

  function table() {
    main.append(element("h2", {}, "Table"), element("p", {}, "A click on a heading sorts by it."));
    const columns = [
      ["workload", (p) => p.workload], ["allocator", (p, r) => r.allocator], ["M/s", (p, r) => r.throughput.median / 1e6],
      ["low", (p, r) => r.throughput.low / 1e6], ["high", (p, r) => r.throughput.high / 1e6], ["to best", (p, r) => r.to_best],
      ["to limit", (p, r) => r.to_limit], ["peak MiB", (p, r) => r.peak_kib.median / 1024],
      ["settled MiB", (p, r) => r.settled_kib && r.settled_kib.median / 1024], ["CPU s", (p, r) => r.cpu_s && r.cpu_s.median],
      ["faults", (p, r) => r.minor_faults && r.minor_faults.median], ["resident/live", (p, r) => r.fragmentation && r.fragmentation.median],
      ["instructions", (p, r) => r.instructions],
      ["hakmem against it", (p, r) => r.ours_against_it && r.ours_against_it.ratio], ["verdict", (p, r) => r.ours_against_it && r.ours_against_it.verdict],
      ["would have seen %", (p, r) => r.ours_against_it && r.ours_against_it.smallest_effect && r.ours_against_it.smallest_effect * 100],
    ];
    const rows = report.workloads.flatMap((p) => p.allocators.map((r) => columns.map((c) => c[1](p, r))));
    const used = columns.map((c, i) => i).filter((i) => rows.some((r) => r[i] !== undefined && r[i] !== null));
    const body = element("tbody"), head = element("tr");
    const fill = () => body.replaceChildren(...rows.map((values) => element("tr", {}, ...used.map((i) => {
      const value = values[i];
      return element("td", value === "faster" || value === "slower" ? { class: value } : {}, typeof value === "number" ? short(value) : value || "-");
    }))));
    for (const i of used) {
      const cell = element("th", { scope: "col" }, columns[i][0]);
      cell.addEventListener("click", () => {
        const up = cell.getAttribute("aria-sort") !== "ascending";
        for (const other of head.children) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        const missing = (v) => v === undefined || v === null;
        rows.sort((a, b) => missing(a[i]) - missing(b[i]) || (a[i] < b[i] ? -1 : a[i] > b[i] ? 1 : 0) * (up ? 1 : -1));
        fill();
      });
      head.append(cell);
    }
    fill();
    main.append(element("div", { class: "card scroll" }, element("table", { id: "table" }, element("thead", {}, head), body)));
  }

  const root = document.documentElement;
  const dark = typeof matchMedia === "function" && matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = /theme=(dark|light)/.test(location.hash) ? RegExp.$1 : dark ? "dark" : "light";
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });
  about(); overview(); bars(); scaling(); memory(); latency(); table();
  root.dataset.drawn = "yes";
})();

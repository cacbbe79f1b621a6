// Charts of a run: one shared step axis, one crosshair through all of them, zoom by dragging, keys for everything.
// Text from data only ever becomes text nodes. No library, no network.
(() => {
  "use strict";
  const source = document.getElementById("curves");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const xs = data.x;
  const LAST = xs.length - 1;
  const view = { log: false, from: xs[0], to: xs[LAST], at: null };
  const MARGIN = { left: 52, right: 14, top: data.stages.length > 1 || data.resumes.length ? 20 : 10, bottom: 26 };

  // ---- small helpers ----

  const svg = (name, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const html = (name, className, ...children) => {
    const node = document.createElement(name);
    node.className = className;
    node.append(...children);
    return node;
  };
  const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
  const seen = (v) => v !== null && v !== undefined;

  const digits = (v, n) => v.toLocaleString("en", { maximumSignificantDigits: n });
  const say = (v, format) => {
    if (!seen(v)) return "–";
    if (format === "percent") return digits(100 * v, 3) + " %";
    if (v !== 0 && Math.abs(v) < 1e-3) return v.toExponential(2).replace("-", "−");
    return digits(v, 4);
  };
  const tick = (value, format) => {
    const v = value || 0; // never "-0"
    if (format === "percent") return digits(100 * v, 3) + " %";
    if (v !== 0 && Math.abs(v) < 1e-3) return v.toExponential(Number.isInteger(Math.log10(v)) ? 0 : 1).replace("-", "−");
    for (const [size, letter] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
      if (Math.abs(v) >= size) return digits(v / (size === 1e4 ? 1e3 : size), 4) + letter;
    }
    return digits(v, 4);
  };

  // ---- scales ----

  const xScale = (width) => {
    const map = view.log ? (x) => Math.log(Math.max(x, 1)) : (x) => x;
    const [a, b] = [map(view.from), map(view.to)];
    const inner = width - MARGIN.left - MARGIN.right;
    return (x) => MARGIN.left + (b > a ? (map(x) - a) / (b - a) : 0.5) * inner;
  };
  const yScale = (low, high, height, log) => {
    const map = log ? Math.log : (y) => y;
    const [a, b] = [map(low), map(high)];
    return (y) => height - MARGIN.bottom - ((map(y) - a) / (b - a)) * (height - MARGIN.top - MARGIN.bottom);
  };
  const linearTicks = (low, high, wanted) => {
    const rough = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const out = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step);
    return out;
  };
  const logTicks = (low, high) => {
    const all = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
      for (const m of [1, 2, 5]) all.push(m * 10 ** p);
    }
    const inside = all.filter((v) => v >= low * 0.999 && v <= high * 1.001);
    return inside.length > 7 ? inside.filter((v) => Number.isInteger(Math.round(Math.log10(v) * 1e6) / 1e6)) : inside;
  };
  const yRange = (chart) => {
    const values = [];
    for (const line of chart.lines) {
      xs.forEach((x, i) => x >= view.from && x <= view.to && seen(line.raw[i]) && values.push(line.raw[i]));
    }
    for (const p of chart.points) {
      p.at.forEach((x, i) => x >= view.from && x <= view.to && values.push(p.values[i]));
    }
    for (const level of chart.levels) values.push(level.value);
    let low = values.length ? values.reduce((a, b) => Math.min(a, b)) : 0;
    let high = values.length ? values.reduce((a, b) => Math.max(a, b)) : 1;
    const log = Boolean(chart.log) && low > 0 && high / low > 8;
    if (log) return [low / 1.15, high * 1.15, true];
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    return [chart.zero && low >= 0 ? 0 : low - pad, high + pad, false];
  };
  const nearest = (sorted, x) => {
    let [low, high] = [0, sorted.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (sorted[middle] <= x) low = middle;
      else high = middle;
    }
    return Math.abs(sorted[high] - x) < Math.abs(sorted[low] - x) ? high : low;
  };

  // ---- drawing ----

  const pathOf = (px, values, py) => {
    let [d, pen] = ["", "M"];
    for (let i = 0; i <= LAST; i++) {
      if (!seen(values[i]) || px[i] < -9999 || px[i] > 99999) pen = "M";
      else {
        d += pen + px[i].toFixed(1) + " " + py(values[i]).toFixed(1);
        pen = "L";
      }
    }
    return d;
  };

  const charts = [...document.querySelectorAll("figure[data-chart]")].map((figure, number) => {
    const chart = data.charts[number];
    const plot = figure.querySelector(".plot");
    const tip = html("div", "tip");
    tip.hidden = true;
    const readout = figure.querySelector(".readout");
    const root = svg("svg", {
      tabindex: 0, role: "slider", "aria-label": `${chart.title}, ${chart.unit}: arrow keys move through the steps`,
      "aria-valuemin": xs[0], "aria-valuemax": xs[LAST], "aria-valuenow": xs[0],
    });
    plot.append(root, tip);
    const self = { chart, plot, root, tip, readout, number };

    self.draw = () => {
      const width = Math.max(plot.clientWidth, 240);
      const height = chart.wide ? (width < 500 ? 220 : 280) : 178;
      const [low, high, log] = yRange(chart);
      const [fx, fy] = [xScale(width), yScale(low, high, height, log)];
      Object.assign(self, { width, height, fx, fy });
      root.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const clip = `clip-${number}`;
      const inner = { x: MARGIN.left, y: MARGIN.top - 4, width: width - MARGIN.left - MARGIN.right + 6, height: height - MARGIN.top - MARGIN.bottom + 8 };
      const back = svg("g", {}), lines = svg("g", { "clip-path": `url(#${clip})` });
      for (const y of log ? logTicks(low, high) : linearTicks(low, high, chart.wide ? 5 : 4)) {
        back.append(
          svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: fy(y), y2: fy(y) }),
          svg("text", { class: "tick", x: MARGIN.left - 8, y: fy(y) + 4, "text-anchor": "end" }, tick(y, chart.format)),
        );
      }
      const wanted = clamp(Math.floor(inner.width / 90), 2, 8);
      let previous = -Infinity;
      for (const x of view.log ? logTicks(Math.max(view.from, 1), view.to) : linearTicks(view.from, view.to, wanted)) {
        if (fx(x) - previous < 34) continue;
        previous = fx(x);
        back.append(svg("text", { class: "tick", x: clamp(fx(x), MARGIN.left + 4, width - 18), y: height - 8, "text-anchor": "middle" }, tick(x)));
      }
      data.stages.forEach((stage, i) => {
        if (data.stages.length < 2 || stage.at > view.to || (i + 1 < data.stages.length && data.stages[i + 1].at <= view.from)) return;
        const x = clamp(fx(stage.at), MARGIN.left, width);
        if (stage.at > view.from) back.append(svg("line", { class: "stage", x1: x, x2: x, y1: MARGIN.top, y2: height - MARGIN.bottom }));
        back.append(svg("text", { class: "stage-name", x: x + (stage.at > view.from ? 4 : 0), y: 11 }, stage.name));
      });
      for (const step of data.resumes) {
        if (step >= view.from && step <= view.to) {
          back.append(svg("line", { class: "resume", x1: fx(step), x2: fx(step), y1: MARGIN.top, y2: height - MARGIN.bottom }));
          if (chart.wide) back.append(svg("text", { class: "resume-name", x: fx(step) + 4, y: 11 }, "resumed"));
        }
      }
      const px = xs.map(fx);
      for (const line of chart.lines) {
        const main = line.smooth || line.raw;
        if (line.smooth) lines.append(svg("path", { class: `raw c${line.color % 6}`, d: pathOf(px, line.raw, fy) }));
        lines.append(svg("path", { class: `main c${line.color % 6}`, d: pathOf(px, main, fy) }));
      }
      let above = Infinity;
      for (const level of [...chart.levels].sort((a, b) => b.value - a.value)) {
        const y = fy(level.value);
        const drop = above + 15 > y - 5 && Number.isFinite(above) ? 13 : -5;
        above = y;
        lines.append(
          svg("line", { class: `level c${level.color % 6}`, x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }),
          svg("text", { class: `level-name c${level.color % 6}`, x: width - MARGIN.right - 4, y: y + drop, "text-anchor": "end" }, width < 500 ? say(level.value) : `${level.name} ${say(level.value)}`),
        );
      }
      for (const points of chart.points) {
        const at = points.at.map((x, i) => `${fx(x).toFixed(1)} ${fy(points.values[i]).toFixed(1)}`);
        if (at.length > 1) lines.append(svg("path", { class: `main c${points.color % 6}`, d: "M" + at.join("L") }));
        points.at.forEach((x, i) => lines.append(svg("circle", { class: `point c${points.color % 6}`, cx: fx(x), cy: fy(points.values[i]), r: 3.5 })));
      }
      self.cursor = svg("g", { class: "cursor" });
      self.brush = svg("rect", { class: "brush", y: MARGIN.top, height: height - MARGIN.top - MARGIN.bottom, width: 0, x: 0 });
      root.replaceChildren(svg("defs", {}, svg("clipPath", { id: clip }, svg("rect", inner))), back, lines, self.brush, self.cursor);
      self.point();
    };

    // Crosshair, dots and numbers at the shared cursor.
    self.point = (active) => {
      self.cursor.replaceChildren();
      tip.hidden = true;
      const i = view.at;
      const rows = valuesAt(chart, i === null ? LAST : i);
      readout.textContent = i === null ? "" : rows.map((r) => r.text).join(" · ");
      if (i === null) return;
      const x = self.fx(xs[i]);
      self.cursor.append(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: self.height - MARGIN.bottom }));
      for (const row of rows) {
        if (seen(row.value)) self.cursor.append(svg("circle", { class: `c${row.color % 6}`, cx: self.fx(row.x), cy: self.fy(row.value), r: 4 }));
      }
      const place = `step ${digits(xs[i], 12)}`;
      root.setAttribute("aria-valuenow", xs[i]);
      root.setAttribute("aria-valuetext", [place, ...rows.map((r) => `${r.name} ${r.text}`)].join(", "));
      if (!active) return;
      const stage = data.stages.length > 1 ? ` · ${data.stages[data.stage[i]].name}` : "";
      tip.replaceChildren(
        html("div", "tip-head", place + stage),
        ...rows.map((r) => html("div", "tip-row", html("i", `c${r.color % 6}`), html("span", "", r.name), html("b", "", r.text))),
        html("div", "tip-foot", seen(data.tokens[i]) ? `${digits(data.tokens[i], 12)} tokens of the stage` : ""),
      );
      tip.hidden = false;
      const room = plot.clientWidth, wide = tip.offsetWidth;
      tip.style.left = `${clamp(x + 14 + wide > room ? x - wide - 14 : x + 14, 0, Math.max(0, room - wide))}px`;
    };

    listen(self);
    return self;
  });

  function valuesAt(chart, i) {
    const rows = chart.lines.map((line) => {
      const value = (line.smooth || line.raw)[i];
      const exact = line.smooth && seen(line.raw[i]) ? ` (this step ${say(line.raw[i], chart.format)})` : "";
      return { name: line.name, color: line.color, x: xs[i], value, text: say(value, chart.format) + exact };
    });
    for (const points of chart.points) {
      const k = nearest(points.at, xs[i]);
      rows.push({ name: points.name, color: points.color, x: points.at[k], value: points.values[k], text: `${say(points.values[k])} (step ${digits(points.at[k], 12)})` });
    }
    return rows;
  }

  // ---- hands on ----

  function move(index, active) {
    view.at = index;
    for (const c of charts) c.point(c === active);
  }
  function zoom(from, to) {
    [view.from, view.to] = from < to ? [from, to] : [xs[0], xs[LAST]];
    reset.hidden = view.from === xs[0] && view.to === xs[LAST];
    for (const c of charts) c.draw();
  }
  function listen(self) {
    const { root } = self;
    const indexAt = (event) => {
      const x = ((event.clientX - root.getBoundingClientRect().left) / root.clientWidth) * self.width;
      let [best, distance] = [0, Infinity];
      for (let i = 0; i <= LAST; i++) {
        const d = Math.abs(self.fx(xs[i]) - x);
        if (d < distance && xs[i] >= view.from && xs[i] <= view.to) [best, distance] = [i, d];
      }
      return best;
    };
    let start = null;
    root.addEventListener("pointermove", (event) => {
      const i = indexAt(event);
      move(i, self);
      if (start !== null) {
        const [a, b] = [self.fx(xs[start]), self.fx(xs[i])];
        self.brush.setAttribute("x", Math.min(a, b));
        self.brush.setAttribute("width", Math.abs(a - b));
      }
    });
    root.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) {
        start = indexAt(event);
        root.setPointerCapture(event.pointerId);
      } else move(indexAt(event), self);
    });
    root.addEventListener("pointerup", (event) => {
      const [a, b] = [start, indexAt(event)];
      start = null;
      if (a !== null && Math.abs(self.fx(xs[a]) - self.fx(xs[b])) > 8) zoom(xs[Math.min(a, b)], xs[Math.max(a, b)]);
      else self.brush.setAttribute("width", 0);
    });
    root.addEventListener("pointercancel", () => (start = null));
    root.addEventListener("pointerleave", () => start === null && move(null));
    root.addEventListener("dblclick", () => zoom(xs[0], xs[LAST]));
    root.addEventListener("blur", () => move(null));
    root.addEventListener("keydown", (event) => {
      const [first, last] = [nearest(xs, view.from), nearest(xs, view.to)];
      const pace = event.shiftKey ? Math.max(1, Math.round((last - first) / 20)) : 1;
      const at = view.at === null ? (event.key === "ArrowLeft" ? last + 1 : first - 1) : view.at;
      const middle = view.at === null ? Math.round((first + last) / 2) : view.at;
      const quarter = Math.max(2, Math.round((last - first) / 4));
      const act = {
        ArrowRight: () => move(clamp(at + pace, first, last), self),
        ArrowLeft: () => move(clamp(at - pace, first, last), self),
        Home: () => move(first, self),
        End: () => move(last, self),
        "+": () => zoom(xs[clamp(middle - quarter, 0, LAST)], xs[clamp(middle + quarter, 0, LAST)]),
        "-": () => zoom(xs[clamp(first - quarter * 2, 0, LAST)], xs[clamp(last + quarter * 2, 0, LAST)]),
        Escape: () => (view.at === null ? zoom(xs[0], xs[LAST]) : move(null)),
      }[event.key];
      if (act) {
        act();
        event.preventDefault();
      }
    });
  }

  const controls = document.querySelector(".controls");
  const toggle = controls.querySelector(".log");
  const reset = controls.querySelector(".reset");
  toggle.addEventListener("click", () => {
    view.log = !view.log;
    toggle.setAttribute("aria-pressed", String(view.log));
    for (const c of charts) c.draw();
  });
  reset.addEventListener("click", () => zoom(xs[0], xs[LAST]));
  controls.hidden = false;
  const watcher = new ResizeObserver(() => charts.forEach((c) => c.width !== Math.max(c.plot.clientWidth, 240) && c.draw()));
  for (const c of charts) {
    c.draw();
    watcher.observe(c.plot);
  }
  document.documentElement.dataset.charts = String(charts.length);
})();

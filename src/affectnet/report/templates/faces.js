"use strict";
// The faces: one set of filters for the plot of dots and the gallery. Text from the data is inserted
// as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const byId = (id) => document.getElementById(id);
  if (!data.runs.length) return;
  byId("browser").hidden = false;

  const PAGE = 36;
  const FAR = 0.5;
  const form = byId("filters");
  const plane = byId("plane");
  const state = { rows: [], dots: [], chosen: -1, shown: PAGE };

  const name = (c) => (c < 0 ? "unlabelled" : data.classes[c]);
  const colour = (c) => (c < 0 ? "var(--muted)" : data.colours[c]);
  const percent = (x) => `${Math.round(100 * x)}%`;
  const signed = (x) => (x === null ? "–" : (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2));

  function make(tag, options = {}, ...children) {
    const { text, svg, ...attributes } = options;
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "style") node.style.cssText = value;
      else node.setAttribute(key, value);
    }
    if (text !== undefined) node.textContent = text;
    node.append(...children);
    return node;
  }

  const labelled = (r) => r.t >= 0 && r.p >= 0;
  const distance = (r) =>
    [r.v, r.a, r.vp, r.ap].includes(null) ? null : Math.hypot(r.vp - r.v, r.ap - r.a);
  const opposite = (x, y) => x !== null && y !== null && x * y < 0;
  const second = (r) => {
    if (!labelled(r) || r.t === r.p || r.q.includes(null)) return false;
    return r.q.filter((q) => q > r.q[r.t]).length === 1;
  };
  const kinds = {
    all: () => true,
    wrong: (r) => labelled(r) && r.t !== r.p,
    right: (r) => labelled(r) && r.t === r.p,
    second,
    valence: (r) => opposite(r.v, r.vp),
    arousal: (r) => opposite(r.a, r.ap),
    far: (r) => distance(r) !== null && distance(r) > FAR,
  };
  // Unknown values sort last.
  const down = (f) => (r, s) => (f(s) ?? -1) - (f(r) ?? -1);
  const up = (f) => (r, s) => (f(r) ?? 9) - (f(s) ?? 9);
  const isWrong = (r) => Number(kinds.wrong(r));
  const orders = {
    mistakes: (r, s) => isWrong(s) - isWrong(r) || down((one) => one.c)(r, s),
    sure: down((r) => r.c),
    unsure: up((r) => r.c),
    far: down(distance),
    truth: up((r) => (r.t < 0 ? null : r.q[r.t])),
    id: (r, s) => (r.id < s.id ? -1 : Number(r.id > s.id)),
  };

  // ---- one face
  function faceImage(r, size) {
    const alt = `Face ${r.id}: ${name(r.t)}, predicted ${name(r.p)}`;
    const image = r.f === null ? make("span", { class: "no-image", text: "no image" })
      : make("img", { src: data.faces[r.f], width: size, height: size, alt });
    const whole = make("span", { class: "pic" }, image);
    if (r.c !== null) whole.append(make("b", { class: "badge", text: percent(r.c) }));
    return whole;
  }
  function verdict(r) {
    return make("span", { class: "verdict" },
      make("i", { class: "dot", style: `background:${colour(r.p)}` }), name(r.p));
  }
  function truthOf(r) {
    const text = r.t < 0 ? "unlabelled" : r.t === r.p ? "right" : `is ${name(r.t)}`;
    return make("span", { class: "truth", text });
  }
  function details(r, into) {
    const bars = make("ul", { class: "bars", "aria-label": "Probability of each expression" });
    r.q.forEach((q, c) => {
      if (q === null) return;
      const mark = c === r.t ? " ← true" : "";
      bars.append(make("li", c === r.t ? { class: "is-truth" } : {},
        make("span", { text: name(c) + mark }),
        make("span", { class: "bar" }, make("i", { style: `width:${100 * q}%;background:${colour(c)}` })),
        make("span", { class: "number", text: percent(q) })));
    });
    const table = make("table", { class: "affect" });
    table.append(make("tr", {}, make("td"), make("th", { scope: "col", text: "predicted" }),
      make("th", { scope: "col", text: "annotated" })));
    for (const [label, pred, truth] of [["valence", r.vp, r.v], ["arousal", r.ap, r.a]]) {
      table.append(make("tr", {}, make("th", { scope: "row", text: label }),
        make("td", { text: signed(pred) }), make("td", { text: signed(truth) })));
    }
    const right = labelled(r) ? (r.t === r.p ? " right" : " wrong") : "";
    into.replaceChildren(
      make("div", { class: `face-head${right}` }, faceImage(r, 120),
        make("div", {}, verdict(r), truthOf(r), make("code", { text: r.id }))),
      bars, table);
  }

  // ---- the plot
  const svg = (tag, options, ...children) => make(tag, { svg: true, ...options }, ...children);
  function frame() {
    plane.append(
      svg("circle", { class: "rim", r: 1 }),
      svg("line", { class: "axis", x1: -1.05, x2: 1.05, y1: 0, y2: 0 }),
      svg("line", { class: "axis", y1: -1.05, y2: 1.05, x1: 0, x2: 0 }));
    for (const [x, y, text, anchor, turn] of [
      [1.15, 0, "pleasant", "middle", 90], [-1.15, 0, "unpleasant", "middle", -90],
      [0, -1.1, "excited", "middle", 0], [0, 1.15, "calm", "middle", 0]]) {
      plane.append(svg("text", { x, y, "text-anchor": anchor, text,
        transform: turn ? `rotate(${turn} ${x} ${y})` : "" }));
    }
    plane.append(svg("g", { id: "dots" }), svg("g", { id: "mark" }));
  }
  const place = (r, where) => (where === "truth" ? [r.v, r.a] : [r.vp, r.ap]);
  const where = () => document.querySelector("input[name=where]:checked").value;

  function drawDots() {
    const group = byId("dots");
    state.dots = state.rows.filter((r) => r.s && !place(r, where()).includes(null));
    group.replaceChildren(...state.dots.map((r, i) => {
      const [x, y] = place(r, where());
      return svg("circle", { cx: x, cy: -y, r: 0.021, fill: colour(r.t), "data-i": i });
    }));
    const all = data.runs[form.run.value].rows.filter((r) => r.s).length;
    const n = data.runs[form.run.value].n;
    const of = all < n ? `, a random sample of ${n.toLocaleString("en")}` : "";
    byId("plane-count").textContent =
      `${state.dots.length.toLocaleString("en")} of ${all.toLocaleString("en")} faces${of}`;
    release();
  }
  function choose(i) {
    state.chosen = i;
    const r = state.dots[i];
    const [x, y] = place(r, where());
    const other = place(r, where() === "truth" ? "pred" : "truth");
    const marks = [];
    if (!other.includes(null)) {
      marks.push(
        svg("line", { x1: x, y1: -y, x2: other[0], y2: -other[1] }),
        svg("circle", { class: "other", cx: other[0], cy: -other[1], r: 0.03, stroke: colour(r.t) }));
    }
    marks.push(svg("circle", { class: "here", cx: x, cy: -y, r: 0.036, fill: colour(r.t) }));
    byId("mark").replaceChildren(...marks);
    details(r, byId("card"));
    const hover = byId("hover");
    hover.replaceChildren(faceImage(r, 96), verdict(r), truthOf(r));
    hover.hidden = false;
    // In percent of the box, so that it is correct at any width; flipped near the edges.
    const box = plane.viewBox.baseVal;
    const left = (100 * (x - box.x)) / box.width;
    const top = (100 * (-y - box.y)) / box.height;
    hover.style.left = `${left}%`;
    hover.style.top = `${top}%`;
    hover.style.transform =
      `translate(${left > 60 ? "calc(-100% - 14px)" : "14px"}, ${top > 55 ? "calc(-100% - 6px)" : "6px"})`;
  }
  function release() {
    state.chosen = -1;
    byId("mark").replaceChildren();
    byId("hover").hidden = true;
    byId("card").replaceChildren(make("p", { class: "hint",
      text: "Point at a dot to see the face, its probabilities, valence and arousal." }));
  }
  function nearest(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(plane.getScreenCTM().inverse());
    let best = -1;
    let least = 0.07 ** 2;
    state.dots.forEach((r, i) => {
      const [x, y] = place(r, where());
      const d = (x - at.x) ** 2 + (-y - at.y) ** 2;
      if (d < least) { least = d; best = i; }
    });
    return best;
  }
  plane.addEventListener("pointermove", (event) => {
    const i = nearest(event);
    if (i >= 0 && i !== state.chosen) choose(i);
    if (i < 0) byId("hover").hidden = true;
  });
  plane.addEventListener("pointerdown", (event) => {
    const i = nearest(event);
    if (i >= 0) choose(i);
  });
  plane.addEventListener("pointerleave", () => { byId("hover").hidden = true; });
  plane.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { release(); return; }
    const axis = { ArrowLeft: 0, ArrowRight: 0, ArrowUp: 1, ArrowDown: 1 }[event.key];
    if (axis === undefined || !state.dots.length) return;
    event.preventDefault();
    const step = event.key === "ArrowRight" || event.key === "ArrowUp" ? 1 : -1;
    const order = state.dots.map((_, i) => i).sort((i, j) =>
      place(state.dots[i], where())[axis] - place(state.dots[j], where())[axis] || i - j);
    const middle = Math.floor(order.length / 2);
    const at = state.chosen < 0 ? middle : order.indexOf(state.chosen) + step;
    choose(order[Math.min(Math.max(at, 0), order.length - 1)]);
  });

  // ---- the gallery
  function drawGallery() {
    const rows = [...state.rows].sort(orders[form.order.value]);
    const shown = rows.slice(0, state.shown);
    byId("gallery").replaceChildren(...shown.map((r) => {
      const open = make("button", { type: "button" }, faceImage(r, 96), verdict(r), truthOf(r));
      open.addEventListener("click", () => {
        details(r, byId("dialog-card"));
        byId("dialog").showModal();
      });
      const kind = labelled(r) ? (r.t === r.p ? "right" : "wrong") : "unlabelled";
      return make("li", { class: kind, "data-id": r.id }, open);
    }));
    const run = data.runs[form.run.value];
    const from = run.rows.length < run.n
      ? ` of ${run.rows.length.toLocaleString("en")} chosen from ${run.n.toLocaleString("en")}` : "";
    byId("gallery-count").textContent = `${rows.length.toLocaleString("en")} faces${from}`;
    byId("more").hidden = shown.length === rows.length;
  }

  function update() {
    const least = Number(form.least.value) / 100;
    byId("least-text").textContent = percent(least);
    const { truth, pred, kind } = form;
    state.rows = data.runs[form.run.value].rows.filter((r) =>
      (truth.value === "" || r.t === Number(truth.value)) &&
      (pred.value === "" || r.p === Number(pred.value)) &&
      (least === 0 || (r.c ?? 0) >= least) && kinds[kind.value](r));
    drawDots();
    drawGallery();
  }
  form.addEventListener("input", () => { state.shown = PAGE; update(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { state.shown = PAGE; update(); }));
  for (const radio of document.querySelectorAll("input[name=where]")) {
    radio.addEventListener("change", drawDots);
  }
  byId("more").addEventListener("click", () => { state.shown += PAGE; drawGallery(); });
  byId("dialog").addEventListener("click", (event) => {
    if (event.target === byId("dialog")) byId("dialog").close();
  });

  // The legend filters: click an expression to see only its faces.
  data.classes.forEach((text, c) => {
    const button = make("button", { type: "button", "aria-pressed": "false" },
      make("i", { class: "dot", style: `background:${colour(c)}` }), text);
    button.addEventListener("click", () => {
      form.truth.value = form.truth.value === String(c) ? "" : String(c);
      form.dispatchEvent(new Event("input"));
    });
    byId("classes").append(make("li", {}, button));
  });
  form.addEventListener("input", pressLegend);
  form.addEventListener("reset", () => setTimeout(pressLegend));
  function pressLegend() {
    [...byId("classes").querySelectorAll("button")].forEach((button, c) =>
      button.setAttribute("aria-pressed", String(form.truth.value === String(c))));
  }

  frame();
  update();
})();

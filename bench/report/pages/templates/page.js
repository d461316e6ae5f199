// Turns the form's choices into Vega-Lite's data and specifications.
const bytes = Uint8Array.from(atob(document.getElementById("data").textContent), (c) => c.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const data = await new Response(stream).json();
const element = (id) => document.getElementById(id);
const form = element("choices");
// Devices of one name are shown with their folders.
const known = data.devices.map((device) => device.name);
data.devices.forEach((device) => {
  if (known.filter((name) => name === device.name).length > 1) device.name += ` (${device.folder})`;
});

// Rows become records again; `extra` is what the report derives from a record.
const records = data.devices.flatMap((device, at) => device.records.map(([values, shared, extra]) => {
  const record = Object.fromEntries(data.fields.map((name, k) => [name, values[k]]));
  return { record, extra, at, shared: device.shared[shared], ...record, ...extra };
}));

const perCall = (r) => [r.median_ms, r.ci_low_ms, r.ci_high_ms];
const scaled = (by) => (r) => perCall(r).map((ms) => ms * by(r));
const single = (name, by = 1) => (r) => r[name] == null ? null : [r[name] * by, null, null];
const METRICS = {
  tokens: { label: "throughput (tokens/s)", kind: "time", of: (r) => {
    const [middle, low, high] = perCall(r).map((ms) => ms && 1e3 * r.B * r.T / ms);
    return [middle, high, low];
  } },
  step: { label: "time per step (µs)", kind: "time", of: scaled((r) => 1e3 / r.T) },
  call: { label: "time per call (ms)", kind: "time", of: scaled(() => 1) },
  speedup: { label: "speed over torch.nn", kind: "time", of: (r) => r.speedup },
  memory: { label: "peak memory (MiB)", kind: "time", of: single("peak_bytes", 2 ** -20) },
  output: { label: "error of the output (relative L2)", kind: "error", of: single("output") },
  gradient: { label: "error of the gradient of input, state (relative L2)", kind: "error", of: single("gradient") },
  weights: { label: "error of the gradient of weights (relative L2)", kind: "error", of: single("weights") },
  largest: { label: "error of the output (maximum norm)", kind: "error", of: single("largest") },
};
const SIZES = ["B", "T", "H"];
const names = (words) => (value) => words[value] ?? String(value);
const rank = (order) => (a, b) => (order.indexOf(a) + 1 || 99) - (order.indexOf(b) + 1 || 99)
  || (a < b ? -1 : 1);
const numbers = (a, b) => a - b;
// The form's controls in order: label, the rows' field with its values, and a value's text.
const CONTROLS = [
  { id: "device", label: "Device", field: "at", say: (v) => data.devices[v].name, sort: numbers },
  { id: "other", label: "Compare with" },
  { id: "metric", label: "Show" },
  { id: "cell", label: "Cell", field: "cell", say: names(data.cells), sort: rank(data.cell_order) },
  { id: "pass", label: "Pass", field: "pass", say: names(data.passes), sort: rank(data.pass_order) },
  { id: "number", label: "Number format", field: "number", say: String, sort: rank(data.number_order) },
  { id: "setting", label: "Setting", field: "setting", say: String, sort: (a, b) => (a < b ? -1 : 1) },
  { id: "axis", label: "Along", say: (v) => ({ B: "batch B", T: "time steps T", H: "hidden units H" })[v] },
  { id: "first", sizes: true }, { id: "second", sizes: true },
  { id: "provider", label: "Map of", field: "provider", say: String },
];
for (const r of records) {
  const words = [r.track === "layer" ? "layer" : "loop only", `${r.directions} direction${r.directions > 1 ? "s" : ""}`];
  if (r.layers > 1) words.push(`${r.layers} layers`);
  if (r.I !== null && r.I !== r.H) words.push(`I=${r.I}`);
  if (r.resets) words.push(`${100 * r.resets} % resets`);
  if (r.kind === "time") words.push(`${r.mode} clock`);
  if (r.regime) words.push(r.regime);
  r.setting = words.join(", ");
}

const setByHand = new Set(); // selects that the reader set
const select = (id, label) => {
  const outer = document.createElement("label");
  const inner = document.createElement("select");
  inner.id = inner.name = id;
  const text = document.createElement("span");
  text.textContent = label ?? "";
  outer.append(text, inner);
  outer.hidden = true;
  form.append(outer);
  inner.addEventListener("change", () => {
    // Choices made for one metric of one device are dropped for another.
    if (["device", "metric"].includes(id)) setByHand.clear();
    setByHand.add(id);
    draw();
  });
};
CONTROLS.forEach(({ id, label }) => select(id, label));
const boxes = document.createElement("fieldset");
boxes.innerHTML = "<legend>Providers</legend>";
form.append(boxes);
for (const look of data.looks) {
  const outer = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "shown", value: look.name, checked: true });
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = look.color;
  outer.append(box, swatch, look.name);
  boxes.append(outer);
  box.addEventListener("change", () => draw());
}

const chosen = (id) => element(id).value;
const wording = (id) => CONTROLS.find((control) => control.id === id).say;
// Fill a select, keeping what was chosen where it still exists and is among the `full`, those with
// something measured, or was chosen by hand. A select that has nothing to offer is hidden.
const offer = (id, values, say, preferred, full = []) => {
  const box = element(id);
  const before = box.value;
  box.replaceChildren(...values.map((value) => new Option(say(value), value)));
  const stays = values.map(String).includes(before) && (!full.length || setByHand.has(id) || full.map(String).includes(before));
  box.value = stays ? before : String(preferred ?? values[0] ?? "");
  box.disabled = values.length < 2;
  box.parentElement.hidden = !values.length;
};
const distinct = (rows, field) => [...new Set(rows.map((r) => r[field]))];
// The value with most records, the first of equals; one measured record outweighs all failures.
const commonest = (rows, field) => {
  const counts = new Map();
  for (const r of rows) counts.set(r[field], (counts.get(r[field]) ?? 0) + (r.status === "ok" ? 1 : 1e-6));
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
};

// An error may be exactly zero, a time may not.
const has = (name) => (r) => {
  if (r.status !== "ok" || r.kind !== METRICS[name].kind) return false;
  const value = METRICS[name].of(r)?.[0];
  return value > 0 || (value === 0 && r.kind === "error");
};
const failed = (r) => r.status !== "ok";
const able = (r) => has(chosen("metric"))(r);
// Whether a record belongs to the metric: with a value, or with a failure to give one.
const belongs = (r) => r.kind === METRICS[chosen("metric")].kind
  && (able(r) || (failed(r) && (!["gradient", "weights"].includes(chosen("metric")) || r.pass !== "fwd")));
// What a device can show: the metrics with a value and, of a kind that only failed, its first one.
const metricsOf = (rows) => {
  const good = Object.keys(METRICS).filter((name) => rows.some(has(name)));
  const lost = ["time", "error"].filter((kind) => !good.some((name) => METRICS[name].kind === kind)
    && rows.some((r) => r.kind === kind && failed(r)));
  return [...good, ...lost.map((kind) => Object.keys(METRICS).find((name) => METRICS[name].kind === kind))];
};

const chooseDevice = () => {
  const all = data.devices.map((_, k) => k);
  const name = (k) => data.devices[k].name;
  const measured = all.find((k) => records.some((r) => r.at === k && Object.keys(METRICS).some((m) => has(m)(r))));
  offer("device", all, name, measured);
  const others = all.filter((k) => String(k) !== chosen("device"));
  offer("other", ["", ...others], (k) => (k === "" ? "no other device" : name(k)));
};

// The records that the choices leave, narrowing from left to right.
const narrow = () => {
  chooseDevice();
  const here = (r) => String(r.at) === chosen("device");
  const metrics = metricsOf(records.filter((r) => here(r) && data.looks.some((look) => look.name === r.provider)));
  offer("metric", metrics, (name) => METRICS[name].label);
  const devices = [chosen("device"), chosen("other")];
  let rows = !metrics.length ? [] : records.filter((r) => devices.includes(String(r.at))
    && belongs(r) && data.looks.some((look) => look.name === r.provider));
  for (const { id, field, say, sort } of CONTROLS.filter((c) => ["cell", "pass", "number", "setting"].includes(c.id))) {
    const mine = rows.filter(here);
    offer(id, distinct(mine, field).sort(sort), say, commonest(mine, field), distinct(mine.filter(able), field));
    rows = rows.filter((r) => String(r[field]) === chosen(id));
  }
  const ticked = rows.filter((r) => form.querySelector(`input[value="${CSS.escape(r.provider)}"]`).checked);
  // With nothing ticked the choices stay as they are.
  narrowFurther(ticked.length ? ticked : rows, here);
  return ticked;
};
const narrowFurther = (rows, here) => {
  const mine = rows.filter((r) => here(r) && (chosen("metric") !== "speedup" || !r.provider.startsWith("torch.nn")));
  const among = (found) => data.looks.map((look) => look.name).filter((name) => found.some((r) => r.provider === name));
  offer("provider", among(mine), String, among(mine.filter(able))[0], among(mine.filter(able)));
  const long = (found) => ["H", "B", "T"].filter((axis) => distinct(found, axis).length > 1);
  const axes = [...new Set([...long(rows.filter(able)), ...long(rows)])];
  offer("axis", axes.length || !rows.length ? axes : ["H"], wording("axis"), axes[0], long(rows.filter(able)));
  chooseSizes(rows);
};
// The two fixed sizes: those with most points along the axis, unless the reader chose others.
const fixedSizes = () => SIZES.filter((size) => size !== chosen("axis"));
const chooseSizes = (rows) => {
  const axis = chosen("axis");
  let left = rows;
  ["first", "second"].forEach((id, k) => {
    const size = fixedSizes()[k];
    element(id).previousSibling.textContent = { B: "Batch B", T: "Time steps T", H: "Hidden units H" }[size];
    const spread = (value) => {
      const keys = (found) => new Set(found.filter((r) => r[size] === value).map((r) => `${r.provider} ${r[axis]} ${k === 0 ? r[fixedSizes()[1]] : ""}`)).size;
      return keys(left.filter(able)) + 1e-6 * keys(left);
    };
    const values = distinct(left, size).sort(numbers);
    if (element(id).dataset.size !== size) element(id).value = "";
    element(id).dataset.size = size;
    offer(id, values, String, [...values].sort((a, b) => spread(b) - spread(a))[0], distinct(left.filter(able), size));
    left = left.filter((r) => String(r[size]) === chosen(id));
  });
};
const atFixedSizes = (rows) => rows.filter((r) => ["first", "second"].every((id, k) => String(r[fixedSizes()[k]]) === chosen(id)));

const brief = (value) => {
  if (value == null) return "";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
};
const point = (r) => {
  const [y, low, high] = able(r) ? METRICS[chosen("metric")].of(r) : [null, null, null];
  return { row: records.indexOf(r), device: data.devices[r.at].name, provider: r.provider, B: r.B, T: r.T, H: r.H, seed: r.seed, x: r[chosen("axis")], y, low, high,
    value: brief(y), interval: low == null ? "" : `${brief(low)} to ${brief(high)}`, algorithm: r.algorithm ?? "", status: r.status, reason: r.reason ?? "",
    letter: failed(r) ? letter(r.status) : "", short: failed(r) ? letter(r.status) : bare(y) };
};

// Of several seeds in one square the one with the median value.
const middles = (points) => {
  const squares = new Map();
  for (const p of points) squares.set(`${p.B} ${p.H}`, [...(squares.get(`${p.B} ${p.H}`) ?? []), p]);
  return [...squares.values()].map((found) => found.sort((a, b) => (a.y ?? 0) - (b.y ?? 0))[Math.floor(found.length / 2)]);
};

// Draw, or clear the plot if there is nothing to draw.
const views = {};
const show = async (id, spec) => {
  views[id]?.finalize();
  delete views[id];
  element(id).hidden = !spec;
  if (!spec) return element(id).replaceChildren();
  const options = { actions: { export: true, source: false, compiled: false, editor: false }, renderer: "svg" };
  views[id] = await vegaEmbed(element(id), spec, options);
  views[id].view.addEventListener("click", (_, item) => { if (item?.datum?.row !== undefined) reveal(item.datum.row, true); });
};

let visible = [];
const MEASURED = ["value", "interval", "algorithm"]; // a failure has its reason there
const RIGHT = [...SIZES, "value", "seed"];
const columns = (points) => {
  const may = { device: chosen("other") !== "", interval: points.some((p) => p.interval), algorithm: points.some((p) => p.algorithm), seed: distinct(points, "seed").length > 1 };
  return ["device", "provider", chosen("axis"), ...MEASURED, ...fixedSizes(), "seed"].filter((name) => may[name] ?? true);
};
const table = (points) => {
  visible = points;
  const used = points.length ? columns(points) : [];
  element("table").classList.toggle("several", used.includes("device"));
  const head = element("table").createTHead();
  const title = { value: METRICS[chosen("metric")]?.label };
  head.replaceChildren(document.createElement("tr"));
  for (const name of points.length ? [...used, "raw data"] : []) {
    const cell = Object.assign(document.createElement("th"), { scope: "col", textContent: title[name] ?? name, className: RIGHT.includes(name) ? "number" : "" });
    head.rows[0].append(cell);
  }
  (element("table").tBodies[0] ?? element("table").createTBody()).replaceChildren(...points.map((p) => line(p, used)));
};
const line = (p, used) => {
  const row = document.createElement("tr");
  row.dataset.row = p.row;
  const spared = failed(p) ? used.filter((name) => MEASURED.includes(name)) : [];
  for (const name of used.filter((other) => other === "value" || !spared.includes(other))) {
    const cell = row.insertCell();
    cell.className = RIGHT.includes(name) ? "number" : ["device", "provider"].includes(name) ? "name" : "";
    cell.textContent = p[name];
    if (name === "value" && failed(p)) {
      Object.assign(cell, { className: "words", colSpan: spared.length });
      cell.replaceChildren(Object.assign(document.createElement("div"), { textContent: [p.status, p.reason].filter(Boolean).join(": ") }));
    }
  }
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "record" });
  button.setAttribute("aria-label", `record of ${p.provider}, B=${p.B}, T=${p.T}, H=${p.H}`);
  button.addEventListener("click", () => reveal(p.row, true));
  row.insertCell().append(button);
  return row;
};

const reveal = (row, move) => {
  const { record, shared, at } = records[row];
  element("record").textContent = JSON.stringify({ ...record, ...shared }, null, 2);
  element("record").hidden = false;
  element("record-hint").textContent = `${record.provider}, ${record.case_id}; from ${data.devices[at].folder}/records/, run ${record.run_id}`;
  document.querySelectorAll("#table tr").forEach((line) => line.classList.toggle("chosen", line.dataset.row === String(row)));
  if (move) element("record-title").focus({ preventScroll: false });
};

// As in the tables of the report.
const escaped = (text) => [...String(text)].map((letter) => data.latex[letter] ?? letter).join("");
// A column of the LaTeX table: its head, its alignment, and its text for a point.
const latexColumns = () => {
  const whole = (name) => `S[table-format=${Math.max(1, ...visible.map((p) => String(p[name] ?? "").length))}]`;
  const size = (name) => [`{$${name}$}`, whole(name), (p) => p[name]];
  const number = (head, of) => [`{${escaped(head)}}`, "S", (p) => (p[of] == null ? "{}" : brief(p[of]))];
  const value = number(METRICS[chosen("metric")].label, "y");
  return [...(chosen("other") === "" ? [] : [["device", "l", (p) => escaped(p.device)]]), ["provider", "l", (p) => escaped(p.provider)], ...SIZES.map(size),
    ...(distinct(visible, "seed").length > 1 ? [["{seed}", whole("seed"), (p) => p.seed ?? "{}"]] : []),
    [value[0], value[1], (p) => (failed(p) ? `{${escaped(p.status)}}` : value[2](p))],
    ...(visible.some((p) => p.low != null) ? [number("from", "low"), number("to", "high")] : [])];
};
const latex = () => {
  const parts = latexColumns();
  const rows = [parts.map(([head]) => head), ...visible.map((p) => parts.map(([, , say]) => say(p)))].map((row) => `${row.join(" & ")} \\\\`);
  const ends = visible.some((p) => p.low != null) ? " From and to are the ends of the 95 % interval." : "";
  const caption = escaped(`${choice()}.${ends} ${element("origin").textContent}`);
  return ["% Needs \\usepackage{booktabs,graphicx,siunitx}", "\\begin{table}", "\\centering\\small", `\\caption{${caption}}`, "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%", `\\begin{tabular}{${parts.map(([, align]) => align).join("")}}`, "\\toprule", rows[0], "\\midrule", ...rows.slice(1), "\\bottomrule", "\\end{tabular}}", "\\end{table}", ""].join("\n");
};
const copy = async (text, what) => {
  try {
    await navigator.clipboard.writeText(text);
    element("status").textContent = `Copied ${what}.`;
  } catch {
    element("record").textContent = text;
    element("record").hidden = false;
    element("status").textContent = `The browser does not allow copying; ${what} is shown below instead.`;
  }
};
element("copy-latex").addEventListener("click", () => copy(latex(), "the table as LaTeX"));
element("copy-citation").addEventListener("click", () => copy(data.devices[Number(chosen("device"))].citation, "the citation"));

// The reasons of failures, and a note on errors of zero.
const notes = (good, bad) => {
  const reasons = [...new Set(bad.map((p) => `${p.letter} ${data.letters[p.status][1]} (${p.provider}): ${p.reason}`))];
  const more = reasons.length > 6 ? [`${reasons.length - 6} more reasons in the table`] : [];
  const zero = good.some((p) => p.y === 0) ? "An error of zero is drawn at the bottom of the logarithmic axis. " : "";
  return zero + [...reasons.slice(0, 6), ...more].join(" · ");
};
const why = () => {
  if (!chosen("metric")) return "no record of this device holds a value.";
  return form.querySelector("input:checked") ? "no ticked provider has a record of this choice." : "no provider is ticked.";
};
// The selected values as text.
const choice = () => ["cell", "pass", "number", "setting"].map((id) => element(id).selectedOptions[0]?.text).filter(Boolean).join(", ");

const drawLines = async (points, devices) => {
  const bad = points.filter(failed);
  const good = points.filter((p) => !failed(p));
  const order = distinct(bad, "provider");
  bad.forEach((p) => { p.level = -13 * order.indexOf(p.provider); });
  const label = METRICS[chosen("metric")]?.label ?? "nothing was measured";
  element("lines-title").textContent = `${label[0].toUpperCase()}${label.slice(1)}${chosen("axis") && ` along ${chosen("axis")}`}`;
  element("lines-choice").textContent = [choice(), ...["first", "second"].map((id, k) => chosen(id) && `${fixedSizes()[k]}=${chosen(id)}`)].filter(Boolean).join(", ");
  element("notes").textContent = points.length ? notes(good, bad) : `Nothing to draw: ${why()}`;
  table([...good, ...bad]);
  await show("lines", points.length ? lineSpec(good, bad, devices) : null);
};

// The map takes the whole grid at the T that is chosen, or the T with most squares.
const drawMap = async (rows) => {
  const mine = rows.filter((r) => r.provider === chosen("provider") && String(r.at) === chosen("device"));
  const steps = chosen("axis") === "T" ? commonest(mine, "T") : Number(chosen(fixedSizes().indexOf("T") ? "second" : "first"));
  const squares = middles(mine.filter((r) => r.T === steps).map(point));
  element("map-title").textContent = squares.length ? `${chosen("provider")} over B and H, T=${steps}` : "Map over B and H";
  const empty = mine.length ? `${chosen("provider")} has no record at T=${steps}.` : why();
  const speed = chosen("metric") === "speedup" ? "Above 1 the provider is faster than torch.nn: paired by visits where the two took turns, else the ratio of their medians." : "";
  element("map-notes").textContent = squares.length ? speed : `Nothing to draw: ${empty}`;
  await show("map", squares.length ? mapSpec(squares) : null);
};

const drawAll = async () => {
  const rows = narrow();
  const shown = data.devices.filter((_, k) => [chosen("device"), chosen("other")].includes(String(k)));
  element("origin").textContent = shown.map((device) => device.origin).join("; ");
  element("copy-latex").disabled = !atFixedSizes(rows).length;
  await drawLines(atFixedSizes(rows).map(point).sort((a, b) => a.x - b.x), shown.map((device) => device.name));
  await drawMap(rows);
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
};
// One drawing at a time, so that a slow one never replaces a newer one.
let drawing = Promise.resolve();
let latest = 0;
const draw = () => {
  const mine = latest += 1;
  const next = () => (mine === latest ? drawAll() : null);
  drawing = drawing.then(next, next);
  return drawing;
};
element("left-out").textContent = [...data.alike, ...(data.left_out.length
  ? [`To keep this page small it leaves out ${data.left_out.join(", ")}; the record files have all.`] : [])].join(" ");
await draw();
addEventListener("resize", () => { clearTimeout(globalThis.resizing); globalThis.resizing = setTimeout(draw, 200); });

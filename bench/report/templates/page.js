// From form controls to Vega-Lite: what is drawn is said in data and specifications.
const bytes = Uint8Array.from(atob(document.getElementById("data").textContent), (c) => c.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const data = await new Response(stream).json();
const element = (id) => document.getElementById(id);
const form = element("choices");

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
  gradient: { label: "error of the worst gradient (relative L2)", kind: "error", of: single("gradient") },
  ulp: { label: "error of the output (max. ULP)", kind: "error", of: single("ulp") },
};
const SIZES = ["B", "T", "H"];
const names = (words) => (value) => words[value] ?? String(value);
const rank = (order) => (a, b) => (order.indexOf(a) + 1 || 99) - (order.indexOf(b) + 1 || 99)
  || (a < b ? -1 : 1);
const numbers = (a, b) => a - b;
// Everything that is chosen, in the form's order: label, its values among rows, how they are said.
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
  const words = [r.track === "layer" ? "layer" : "loop alone", `${r.directions} direction${r.directions > 1 ? "s" : ""}`];
  if (r.layers > 1) words.push(`${r.layers} layers`);
  if (r.I !== null && r.I !== r.H) words.push(`I=${r.I}`);
  if (r.resets) words.push(`${100 * r.resets} % resets`);
  if (r.kind === "time") words.push(`${r.mode} clock`);
  if (r.regime) words.push(r.regime);
  r.setting = words.join(", ");
}

const select = (id, label) => {
  const outer = document.createElement("label");
  const inner = document.createElement("select");
  inner.id = inner.name = id;
  const text = document.createElement("span");
  text.textContent = label ?? "";
  outer.append(text, inner);
  form.append(outer);
  inner.addEventListener("change", () => draw());
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
// Fill a select, keeping what was chosen where it still exists.
const offer = (id, values, say, preferred) => {
  const box = element(id);
  const before = box.value;
  box.replaceChildren(...values.map((value) => new Option(say(value), value)));
  const kept = values.map(String).includes(before) ? before : String(preferred ?? values[0] ?? "");
  box.value = kept;
  box.disabled = values.length < 2;
};
const distinct = (rows, field) => [...new Set(rows.map((r) => r[field]))];
const commonest = (rows, field) => {
  const counts = new Map();
  for (const r of rows) counts.set(r[field], (counts.get(r[field]) ?? 0) + (r.status === "ok" ? 1 : 0.01));
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
};
const able = (r) => r.status === "ok" && METRICS[chosen("metric")].of(r)?.[0] > 0;

// The records that the choices leave, narrowing from left to right.
const narrow = () => {
  offer("device", data.devices.map((_, k) => k), (k) => data.devices[k].name);
  const others = data.devices.map((_, k) => k).filter((k) => String(k) !== chosen("device"));
  offer("other", ["", ...others], (k) => (k === "" ? "no other device" : data.devices[k].name));
  const here = (r) => String(r.at) === chosen("device");
  const metrics = Object.keys(METRICS).filter((name) => records.some((r) =>
    here(r) && r.kind === METRICS[name].kind && r.status === "ok" && METRICS[name].of(r)?.[0] > 0));
  offer("metric", metrics, (name) => METRICS[name].label);
  if (!metrics.length) return [];
  const shown = new Set([...form.querySelectorAll("input:checked")].map((box) => box.value));
  const devices = [chosen("device"), chosen("other")];
  let rows = records.filter((r) => devices.includes(String(r.at)) && r.kind === METRICS[chosen("metric")].kind
    && data.looks.some((look) => look.name === r.provider));
  for (const { id, field, say, sort } of CONTROLS.filter((c) => ["cell", "pass", "number", "setting"].includes(c.id))) {
    const good = rows.filter((r) => here(r) && able(r));
    offer(id, distinct(good, field).sort(sort), say, commonest(good, field));
    rows = rows.filter((r) => String(r[field]) === chosen(id));
  }
  const providers = data.looks.map((look) => look.name).filter((name) => rows.some((r) => r.provider === name && able(r)));
  offer("provider", providers.filter((name) => chosen("metric") !== "speedup" || !name.startsWith("torch.nn")), String);
  const good = rows.filter(able);
  const axes = ["H", "B", "T"].filter((axis) => distinct(good, axis).length > 1);
  offer("axis", axes.length ? axes : ["H"], CONTROLS.find((c) => c.id === "axis").say);
  return rows.filter((r) => shown.has(r.provider));
};

const cut = (rows) => {
  const axis = chosen("axis");
  const fixed = SIZES.filter((size) => size !== axis);
  let left = rows;
  ["first", "second"].forEach((id, k) => {
    element(id).previousSibling.textContent = { B: "Batch B", T: "Time steps T", H: "Hidden units H" }[fixed[k]];
    // The cut with most points along the axis, unless the reader chose one.
    const good = left.filter(able);
    const spread = (value) => new Set(good.filter((r) => r[fixed[k]] === value).map((r) => `${r.provider} ${r[axis]} ${k === 0 ? r[fixed[1]] : ""}`)).size;
    const values = distinct(left, fixed[k]).sort(numbers);
    if (element(id).dataset.size !== fixed[k]) element(id).value = "";
    element(id).dataset.size = fixed[k];
    offer(id, values, String, [...values].sort((a, b) => spread(b) - spread(a))[0]);
    left = left.filter((r) => String(r[fixed[k]]) === chosen(id));
  });
  return left;
};

const letter = (status) => data.letters[status][0];
const CONFIG = {
  font: "system-ui, sans-serif", background: "white", view: { stroke: null },
  axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", gridColor: "#e4e6ea", domainColor: "#555", tickColor: "#555" },
  legend: { labelFontSize: 12, titleFontSize: 12, symbolSize: 80, orient: "bottom" },
};
const scale = (key) => ({ domain: data.looks.map((look) => look.name), range: data.looks.map((look) => look[key]) });

// The axis' ends: around the values, with room below for so many rows of failure letters.
const HEIGHT = 340;
const ends = (points, marks) => {
  const values = points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const share = marks ? (14 + 13 * marks) / (HEIGHT - 80) : 0;
  return [least / Math.max(most / least, 1.5) ** (share / (1 - share)), most];
};

// Round values of a logarithmic axis, and of the sizes those that leave room for each other.
const ticks = (points) => {
  const values = points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const span = Math.log10(most / least);
  const steps = span > 2.4 ? [1] : span > 0.6 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
  const found = [];
  for (let power = Math.floor(Math.log10(least)) - 1; power <= Math.log10(most) + 1; power += 1) {
    for (const step of steps) found.push(Number(`${step}e${power}`));
  }
  return found.filter((v) => v > least / 1.6 && v < most * 1.6);
};
const roomy = (sizes) => {
  const gap = Math.log2(sizes.at(-1) / sizes[0]) / 8;
  const found = [sizes.at(-1)];
  for (const size of sizes.toReversed().slice(1)) if (Math.log2(found.at(-1) / size) >= gap) found.push(size);
  return found;
};

const lineSpec = (points, failures, devices) => {
  const sizes = distinct([...points, ...failures], "x").sort(numbers);
  const x = { field: "x", type: "quantitative", scale: { type: "log", base: 2, nice: false, padding: 14 }, title: CONTROLS.find((c) => c.id === "axis").say(chosen("axis")), axis: { values: roomy(sizes), format: "d", grid: false } };
  const label = METRICS[chosen("metric")].label;
  const y = { field: "y", type: "quantitative", title: label, scale: { type: "log", nice: false, padding: 12, ...(points.length ? { domain: ends(points, distinct(failures, "provider").length) } : {}) }, axis: { values: ticks(points), labelExpr: "datum.value < 0.01 ? replace(format(datum.value, '.0e'), '−', '-') : datum.value < 1000 ? format(datum.value, '~r') : format(datum.value, '~s')" } };
  const present = data.looks.map((look) => look.name).filter((name) => [...points, ...failures].some((p) => p.provider === name));
  const legend = { title: null, columns: element("lines").clientWidth < 480 ? 2 : 4, values: present };
  const color = { field: "provider", type: "nominal", scale: scale("color"), legend };
  const shape = { field: "provider", type: "nominal", scale: scale("shape"), legend };
  const dash = devices.length > 1
    ? { field: "device", type: "nominal", scale: { domain: devices, range: [[1, 0], [4, 3]] }, legend: { title: null, orient: "top", direction: "vertical", symbolType: "stroke" } }
    : { field: "provider", type: "nominal", scale: scale("dash"), legend };
  const tooltip = ["device", "provider", "B", "T", "H", "value", "interval"].map((field) => ({ field }));
  const detail = [{ field: "device" }, { field: "provider" }];
  return { $schema: "https://vega.github.io/schema/vega-lite/v6.json", config: CONFIG, width: "container", height: HEIGHT, autosize: { type: "fit", contains: "padding" },
    description: `${label} along ${chosen("axis")}, one line per provider`,
    layer: [
      { data: { values: points }, mark: { type: "line", strokeWidth: 1.8 }, encoding: { x, y: { ...y, aggregate: "median" }, color, detail, strokeDash: dash } },
      { data: { values: points.filter((p) => p.low) }, mark: { type: "rule", strokeWidth: 1.6 }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color } },
      { data: { values: points }, mark: { type: "point", size: 55, strokeWidth: 1.6, fillOpacity: 0.75, cursor: "pointer" }, encoding: { x, y, color, fill: { ...color }, shape, tooltip } },
      { data: { values: failures }, mark: { type: "text", fontSize: 13, fontWeight: "bold", cursor: "pointer" }, encoding: { x, y: { value: { expr: "height - 8" } }, yOffset: { field: "level", type: "quantitative", scale: null }, text: { field: "letter" }, color, tooltip: [...tooltip.slice(0, 5), { field: "reason" }] } },
    ].filter((layer) => layer.data.values.length) };
};

const mapSpec = (squares) => {
  const ordinal = (field, sort) => ({ field, type: "ordinal", sort, title: field, axis: { labelAngle: 0, domain: false, ticks: false, ...(field === "B" ? { titleAngle: 0, titleAlign: "right", titleX: -7, titleY: -10 } : {}) } });
  const speedup = chosen("metric") === "speedup";
  const values = squares.filter((s) => s.y > 0).map((s) => Math.log2(s.y));
  const most = Math.max(1, ...values.map(Math.abs));
  const color = { field: "shade", type: "quantitative", legend: null, scale: speedup
    ? { scheme: "purpleorange", domain: [-most, most] } : { scheme: "blues", domain: [Math.min(...values) - 1, Math.max(...values) + 1] } };
  const ink = speedup ? `abs(datum.shade) > ${0.6 * most} ? 'white' : 'black'` : `datum.shade > ${(Math.min(...values) + Math.max(...values)) / 2 + 0.6} ? 'white' : 'black'`;
  const base = { x: ordinal("H", "ascending"), y: ordinal("B", "descending") };
  const tooltip = ["provider", "B", "T", "H", "value", "interval", "algorithm", "reason"].map((field) => ({ field }));
  return { $schema: "https://vega.github.io/schema/vega-lite/v6.json", config: CONFIG, width: "container", height: 34 * distinct(squares, "B").length + 62, autosize: { type: "fit", contains: "padding" },
    data: { values: squares.map((s) => ({ ...s, shade: s.y > 0 ? Math.log2(s.y) : null })) },
    description: `${METRICS[chosen("metric")].label} of ${chosen("provider")} over B and H`,
    layer: [
      { transform: [{ filter: "datum.shade !== null" }], mark: { type: "rect", stroke: "white", cursor: "pointer" }, encoding: { ...base, color, tooltip } },
      { transform: [{ filter: "datum.shade === null" }], mark: { type: "rect", fill: "#eceef1", stroke: "#9aa0a8", strokeDash: [2, 2], cursor: "pointer" }, encoding: { ...base, tooltip } },
      { mark: { type: "text", fontSize: 12, cursor: "pointer" }, encoding: { ...base, text: { field: "short" }, color: { value: { expr: ink } }, tooltip } },
    ] };
};

const brief = (value) => {
  if (value == null) return "";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
};
const bare = (value) => {
  if (value < 1e-3) return value.toExponential(0);
  const [unit, letter] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => value >= size) ?? [1, ""];
  return Number((value / unit).toPrecision(2)) + letter;
};
const point = (r) => {
  const [y, low, high] = (r.status === "ok" && METRICS[chosen("metric")].of(r)) || [null, null, null];
  return { row: records.indexOf(r), device: data.devices[r.at].name, provider: r.provider, B: r.B, T: r.T, H: r.H, seed: r.seed, x: r[chosen("axis")], y, low, high,
    value: brief(y), interval: low == null ? "" : `${brief(low)} to ${brief(high)}`, algorithm: r.algorithm ?? "", status: r.status, reason: r.reason ?? "",
    letter: r.status === "ok" ? "" : letter(r.status), short: y > 0 ? bare(y) : r.status === "ok" ? "–" : letter(r.status) };
};

// Of several seeds in one square the one in the middle.
const middles = (points) => {
  const squares = new Map();
  for (const p of points) squares.set(`${p.B} ${p.H}`, [...(squares.get(`${p.B} ${p.H}`) ?? []), p]);
  return [...squares.values()].map((found) => found.sort((a, b) => (a.y ?? 0) - (b.y ?? 0))[Math.floor(found.length / 2)]);
};

const show = async (id, spec) => {
  const options = { actions: { export: true, source: false, compiled: false, editor: false }, renderer: "svg" };
  const { view } = await vegaEmbed(element(id), spec, options);
  view.addEventListener("click", (_, item) => { if (item?.datum?.row !== undefined) reveal(item.datum.row, true); });
};

let visible = [];
const table = (points) => {
  visible = points;
  const columns = ["device", "provider", "value", chosen("axis"), "interval", "algorithm", "status", ...SIZES.filter((size) => size !== chosen("axis")), "seed"];
  const used = columns.filter((name) => name !== "device" || chosen("other") !== "").filter((name) => name !== "algorithm" || points.some((p) => p.algorithm)).filter((name) => name !== "seed" || distinct(points, "seed").length > 1);
  const head = used.map((name) => `<th scope="col" class="${["B", "T", "H", "value"].includes(name) ? "number" : ""}"></th>`).join("");
  element("table").innerHTML = `<thead><tr>${head}<th scope="col"></th></tr></thead><tbody></tbody>`;
  element("table").querySelectorAll("th").forEach((cell, k) => { cell.textContent = k < used.length ? (used[k] === "value" ? METRICS[chosen("metric")].label : used[k]) : "raw data"; });
  const body = element("table").querySelector("tbody");
  for (const p of points) {
    const line = body.insertRow();
    line.dataset.row = p.row;
    for (const name of used) {
      const cell = line.insertCell();
      cell.textContent = name === "status" && p.reason ? `${p.status}: ${p.reason}` : p[name];
      if (["B", "T", "H", "value"].includes(name)) cell.className = "number";
      if (name === "status") cell.className = "words";
    }
    line.cells[used.indexOf("provider")].className = "name";
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "record" });
    button.setAttribute("aria-label", `record of ${p.provider}, B=${p.B}, T=${p.T}, H=${p.H}`);
    button.addEventListener("click", () => reveal(p.row, true));
    line.insertCell().append(button);
  }
};

const reveal = (row, move) => {
  const { record, shared, at } = records[row];
  element("record").textContent = JSON.stringify({ ...record, ...shared }, null, 2);
  element("record").hidden = false;
  element("record-hint").textContent = `${record.provider}, ${record.case_id}; from ${data.devices[at].folder}/records/, run ${record.run_id}`;
  document.querySelectorAll("#table tr").forEach((line) => line.classList.toggle("chosen", line.dataset.row === String(row)));
  if (move) element("record-title").focus({ preventScroll: false });
};

const special = { "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}", "µ": "$\\mu$", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}" };
const escaped = (text) => String(text).replace(/[&%$#_{}µ~^\\]/g, (c) => special[c]);
const latex = () => {
  const several = chosen("other") !== "";
  const head = [...(several ? ["device"] : []), "provider", "{$B$}", "{$T$}", "{$H$}", `{${escaped(METRICS[chosen("metric")].label)}}`];
  const rows = visible.map((p) => [...(several ? [escaped(p.device)] : []), escaped(p.provider), p.B, p.T, p.H, p.y == null ? `{${escaped(p.status)}}` : p.value].join(" & "));
  const caption = escaped(`${data.cells[chosen("cell")] ?? chosen("cell")}, ${data.passes[chosen("pass")]}, ${chosen("number")}, ${chosen("setting")}. ${element("origin").textContent}`);
  return ["% Needs \\usepackage{booktabs,siunitx}", "\\begin{table}", "\\centering", `\\caption{${caption}}`, `\\begin{tabular}{${several ? "l" : ""}lS[table-format=5]S[table-format=5]S[table-format=5]S}`, "\\toprule", `${head.join(" & ")} \\\\`, "\\midrule", ...rows.map((row) => `${row} \\\\`), "\\bottomrule", "\\end{tabular}", "\\end{table}", ""].join("\n");
};
const copy = async (text, what) => {
  try {
    await navigator.clipboard.writeText(text);
    element("status").textContent = `Copied ${what}.`;
  } catch {
    element("record").textContent = text;
    element("record").hidden = false;
    element("status").textContent = `The browser does not allow copying; ${what} stands below instead.`;
  }
};
element("copy-latex").addEventListener("click", () => copy(latex(), "the table as LaTeX"));
element("copy-citation").addEventListener("click", () => copy(data.devices[Number(chosen("device"))].citation, "the citation"));

const draw = async () => {
  const rows = narrow();
  const shown = data.devices.filter((_, k) => [chosen("device"), chosen("other")].includes(String(k)));
  element("origin").textContent = shown.map((device) => device.origin).join("; ");
  const points = cut(rows).map(point).sort((a, b) => a.x - b.x);
  const good = points.filter((p) => p.y > 0);
  const bad = points.filter((p) => p.status !== "ok");
  const order = distinct(bad, "provider");
  bad.forEach((p) => { p.level = -13 * order.indexOf(p.provider); });
  const reasons = new Map(bad.map((p) => [`${p.letter} ${data.letters[p.status][1]} (${p.provider}): ${p.reason}`, 0]));
  element("notes").textContent = [...reasons.keys()].slice(0, 6).join(" · ");
  const label = METRICS[chosen("metric")]?.label ?? "nothing was measured";
  element("lines-title").textContent = `${label[0].toUpperCase()}${label.slice(1)} along ${chosen("axis")}`;
  table([...good, ...bad]);
  await show("lines", lineSpec(good, bad, shown.map((device) => device.name)));
  // The map takes the whole grid at the T that is chosen, or the T with most squares.
  const mine = rows.filter((r) => r.provider === chosen("provider") && String(r.at) === chosen("device"));
  const steps = chosen("axis") === "T" ? commonest(mine, "T") : Number(chosen(SIZES.filter((s) => s !== chosen("axis")).indexOf("T") ? "second" : "first"));
  const squares = middles(mine.filter((r) => r.T === steps).map(point));
  element("map-title").textContent = `${chosen("provider")} over B and H, T=${steps}`;
  element("map-notes").textContent = chosen("metric") === "speedup" ? "Above 1 the provider is faster than torch.nn: paired by visits where the two took turns, else the ratio of their medians." : "";
  element("map").hidden = !squares.length;
  if (squares.length) await show("map", mapSpec(squares));
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
};
element("left-out").textContent = data.left_out.length
  ? `To keep this page small it leaves out ${data.left_out.join(", ")}; the record files have all.` : "";
await draw();
addEventListener("resize", () => { clearTimeout(globalThis.resizing); globalThis.resizing = setTimeout(draw, 200); });

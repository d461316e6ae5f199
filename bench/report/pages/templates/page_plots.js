// The specifications of the line plot and of the map; `page.js` follows and gives the points.
// Two significant digits, with or without a zero at the end.
const bare = (value) => {
  const round = Number(value.toPrecision(2));
  if (round === 0) return "0";
  if (round < 1e-3) return round.toExponential(1);
  const [unit, letter] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => round >= size) ?? [1, ""];
  return (round / unit < 100 ? (round / unit).toPrecision(2) : round / unit) + letter;
};
const trimmed = (value) => bare(value).replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");

const letter = (status) => data.letters[status][0];
const CONFIG = {
  font: "system-ui, sans-serif", background: "white", view: { stroke: null },
  axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", gridColor: "#e4e6ea", domainColor: "#555", tickColor: "#555" },
  legend: { labelFontSize: 12, titleFontSize: 12, symbolSize: 80, orient: "bottom" },
};
const scale = (key) => ({ domain: data.looks.map((look) => look.name), range: data.looks.map((look) => look[key]) });

// Round values of a logarithmic axis, of at most two digits: the coarsest list with more than two.
const FINE = [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2, 2.2, 2.4, 2.6, 2.8, 3, 3.2, 3.5, 3.8, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8, 8.5, 9, 9.5];
const TICKS = [[8, [1]], [4, [1]], [2, [1]], [1, [1]], [1, [1, 3]], [1, [1, 2, 5]], [1, [1, 1.5, 2, 3, 5, 7]], [1, [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]], [1, [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9]], [1, FINE]];
const ticks = (least, most) => {
  const [first, last] = [least, most].map((v) => Math.floor(Math.log10(v)));
  const powers = Array.from({ length: last - first + 1 }, (_, k) => first + k);
  const found = TICKS.map(([stride, steps]) => powers.filter((power) => power % stride === 0)
    .flatMap((power) => steps.map((step) => Number(`${step}e${power}`))).filter((v) => v >= least && v <= most));
  return found.find((values) => values.length > 2) ?? found.at(-1);
};

// The logarithmic axis: its ends around the values, with room below for errors of zero, which
// are drawn at `zero`, and for so many rows of failure letters.
const HEIGHT = 270;
const yRange = (points, marks) => {
  const values = points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]).filter((v) => v > 0);
  let [least, most] = values.length ? [Math.min(...values), Math.max(...values)] : [1, 1];
  const wider = Math.sqrt(Math.max(1, 1.3 / (most / least)));
  [least, most] = [least / wider, most * wider];
  const zeros = points.some((p) => p.y === 0);
  const below = marks ? Math.min(14 + 13 * marks, 0.7 * HEIGHT) : 0;
  const whole = Math.log(most / least) / (1 - (below + (zeros ? 30 : 0)) / HEIGHT);
  const bottom = most / Math.exp(whole);
  return { domain: [bottom, most], ticks: values.length ? ticks(least, most) : [],
    zero: zeros ? bottom * Math.exp(whole * below / HEIGHT) : null };
};
// The y axis as Vega-Lite's encoding.
const yAxis = ({ domain, ticks: round, zero }) => {
  const values = zero === null ? round : [zero, ...round];
  const labels = Object.fromEntries(values.map((v) => [v, v === zero ? "0" : trimmed(v)]));
  return { field: "height", type: "quantitative", title: METRICS[chosen("metric")].label,
    scale: { type: "log", nice: false, padding: 12, domain }, axis: { values, labelExpr: `${JSON.stringify(labels)}[datum.value]` } };
};
const spaced = (sizes) => {
  const gap = Math.log2(sizes.at(-1) / sizes[0]) / 8;
  const found = [sizes.at(-1)];
  for (const size of sizes.toReversed().slice(1)) if (Math.log2(found.at(-1) / size) >= gap) found.push(size);
  return found;
};

const lineSpec = (points, failures, devices) => {
  const sizes = distinct([...points, ...failures], "x").sort(numbers);
  const x = { field: "x", type: "quantitative", scale: { type: "log", base: 2, nice: false, padding: 14 }, title: wording("axis")(chosen("axis")), axis: { values: spaced(sizes), format: "d", grid: false } };
  const range = yRange(points, distinct(failures, "provider").length);
  const y = yAxis(range);
  const drawn = points.map((p) => ({ ...p, height: p.y === 0 ? range.zero : p.y }));
  const present = data.looks.map((look) => look.name).filter((name) => [...points, ...failures].some((p) => p.provider === name));
  const legend = { title: null, columns: element("lines").clientWidth < 480 ? 2 : 4, values: present };
  const color = { field: "provider", type: "nominal", scale: scale("color"), legend };
  const shape = { field: "provider", type: "nominal", scale: scale("shape"), legend };
  const dash = devices.length > 1
    ? { field: "device", type: "nominal", scale: { domain: devices, range: [[1, 0], [4, 3]] }, legend: { title: null, orient: "top", direction: "vertical", symbolType: "stroke" } }
    : { field: "provider", type: "nominal", scale: scale("dash"), legend };
  const tooltip = ["device", "provider", "B", "T", "H", "value", "interval"].map((field) => ({ field }));
  const detail = [{ field: "device" }, { field: "provider" }];
  return { $schema: "https://vega.github.io/schema/vega-lite/v6.json", config: CONFIG, width: "container", height: points.length ? HEIGHT : 12 + 13 * distinct(failures, "provider").length, autosize: { type: "fit-x", contains: "padding" },
    description: `${y.title} along ${chosen("axis")}, one line per provider`,
    layer: [
      { data: { values: drawn }, mark: { type: "line", strokeWidth: 1.8 }, encoding: { x, y: { ...y, aggregate: "median" }, color, detail, strokeDash: dash } },
      { data: { values: drawn.filter((p) => p.low) }, mark: { type: "rule", strokeWidth: 1.6 }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color } },
      { data: { values: drawn }, mark: { type: "point", size: 55, strokeWidth: 1.6, fillOpacity: 0.75, cursor: "pointer" }, encoding: { x, y, color, fill: { ...color }, shape, tooltip } },
      { data: { values: failures }, mark: { type: "text", fontSize: 13, fontWeight: "bold", cursor: "pointer" }, encoding: { x, y: { value: { expr: "height - 8" } }, yOffset: { field: "level", type: "quantitative", scale: null }, text: { field: "letter" }, color, tooltip: [...tooltip.slice(0, 5), { field: "reason" }] } },
    ].filter((layer) => layer.data.values.length) };
};

const mapSpec = (squares) => {
  const ordinal = (field, sort) => ({ field, type: "ordinal", sort, title: field, axis: { labelAngle: 0, domain: false, ticks: false, ...(field === "B" ? { titleAngle: 0, titleAlign: "right", titleX: -7, titleY: -10 } : {}) } });
  const speedup = chosen("metric") === "speedup";
  const values = squares.filter((s) => s.y > 0).map((s) => Math.log2(s.y));
  // A zero gets the palest colour.
  const [least, most] = values.length ? [Math.min(...values) - 1, Math.max(...values) + 1] : [-1, 1];
  const far = Math.max(1, ...values.map(Math.abs));
  const shade = (s) => (s.y > 0 ? Math.log2(s.y) : s.y === 0 ? least : null);
  const color = { field: "shade", type: "quantitative", legend: null, scale: speedup
    ? { scheme: "purpleorange", domain: [-far, far] } : { scheme: "blues", domain: [least, most] } };
  const textColor = speedup ? `abs(datum.shade) > ${0.6 * far} ? 'white' : 'black'` : `datum.shade > ${(least + most) / 2 + 0.6} ? 'white' : 'black'`;
  const base = { x: ordinal("H", "ascending"), y: ordinal("B", "descending") };
  const tooltip = ["provider", "B", "T", "H", "value", "interval", "algorithm", "reason"].map((field) => ({ field }));
  return { $schema: "https://vega.github.io/schema/vega-lite/v6.json", config: CONFIG, width: "container", height: 34 * distinct(squares, "B").length + 62, autosize: { type: "fit", contains: "padding" },
    data: { values: squares.map((s) => ({ ...s, shade: shade(s) })) },
    description: `${METRICS[chosen("metric")].label} of ${chosen("provider")} over B and H`,
    layer: [
      { transform: [{ filter: "datum.shade !== null" }], mark: { type: "rect", stroke: "white", cursor: "pointer" }, encoding: { ...base, color, tooltip } },
      { transform: [{ filter: "datum.shade === null" }], mark: { type: "rect", fill: "#eceef1", stroke: "#9aa0a8", strokeDash: [2, 2], cursor: "pointer" }, encoding: { ...base, tooltip } },
      { mark: { type: "text", fontSize: 12, cursor: "pointer" }, encoding: { ...base, text: { field: "short" }, color: { value: { expr: textColor } }, tooltip } },
    ] };
};

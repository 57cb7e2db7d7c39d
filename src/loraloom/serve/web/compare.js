// Comparisons: strengths × adapters, or two mixes, in either case one mixed batch.

import { $, h, plural, tidy } from "./dom.js";
import { common, field } from "./fields.js";
import { adapter, lora, on, state } from "./state.js";

const MOST = 64;
const rows = new Set(); // adapters that are compared
const sides = { A: new Map(), B: new Map() }; // name -> strength

const strengths = () =>
  field("strengths")
    .value.split(/[\s,;]+/)
    .filter(Boolean)
    .map(Number);

const beside = () => [...state.worn].filter(([name]) => !rows.has(name));

/** One mix a cell: what is worn and no row stays on, and the row's adapter comes last. */
function gridMixes() {
  const others = beside().map(([name, how]) => lora(name, how));
  return [...rows].flatMap((name) => strengths().map((scale) => [...others, { name, scale }]));
}

const pairMixes = () =>
  ["A", "B"].map((side) => [...sides[side]].map(([name, scale]) => ({ name, scale })));

function wrong(mixes) {
  if (field("comparing").value === "mixes") {
    const same = JSON.stringify(mixes[0]) === JSON.stringify(mixes[1]);
    return same ? "The two mixes are the same. Give one of them another strength." : null;
  }
  if (!rows.size) return "Choose an adapter for a row.";
  if (!strengths().length) return "Give at least one strength, such as 0.5.";
  if (strengths().some((each) => !Number.isFinite(each)))
    return "Strengths are numbers with commas between them, such as 0, 0.5, 1.";
  return mixes.length > MOST ? `That is ${mixes.length} pictures, one batch takes ${MOST}.` : null;
}

export function request() {
  const { loras: _, ...rest } = common();
  const mixes = field("comparing").value === "mixes" ? pairMixes() : gridMixes();
  const message = wrong(mixes);
  return {
    path: "/v1/images/generations",
    kind: "images",
    body: { ...rest, output_format: field("format").value, mixes },
    files: {},
    wrong: message ? { param: "mixes", message } : null,
  };
}

/** How mixes lie: a pair, a full grid of the last adapter's names × strengths, or just a row. */
export function layout(mixes) {
  if (mixes.length === 2) return { pair: mixes.map(mixWords) };
  const lasts = mixes.map((mix) => mix.at(-1));
  if (lasts.every(Boolean)) {
    const names = [...new Set(lasts.map(({ name }) => name))];
    const columns = lasts.filter(({ name }) => name === names[0]).map(({ scale }) => scale);
    const full = lasts.every(
      ({ name, scale }, at) =>
        name === names[Math.floor(at / columns.length)] && scale === columns[at % columns.length],
    );
    if (full && mixes.length === names.length * columns.length) return { names, columns };
  }
  return { row: mixes.map(mixWords) };
}

export const mixWords = (mix) =>
  mix
    .map(({ name, scale }) =>
      `${name} ${scale === null || scale === undefined ? "" : tidy(scale)}`.trim(),
    )
    .join(" + ") || "nothing";

/** Takes up an earlier comparison. */
export function reuse(mixes) {
  const { pair, names, columns } = layout(mixes);
  field("comparing").value = pair ? "mixes" : "grid";
  if (pair) {
    mixes.forEach((mix, at) => {
      sides["AB"[at]] = new Map(
        mix.filter(({ name }) => adapter(name)).map(({ name, scale }) => [name, scale]),
      );
    });
  } else if (names) {
    rows.clear();
    names.filter(adapter).forEach((name) => rows.add(name));
    field("strengths").value = columns.map(tidy).join(", ");
  }
  build();
}

function count() {
  const pictures = rows.size * strengths().length;
  const others = beside().map(([name]) => name);
  const too = others.length ? ` All of them wear ${others.join(", ")}, too.` : "";
  const batches = Math.ceil(pictures / (state.model?.limits?.batch || MOST));
  const how = batches > 1 ? `made in ${batches} mixed batches` : "made as one mixed batch";
  $("compare-count").textContent = `${plural(pictures, "picture")} of one seed, ${how}.${too}`;
}

function rowBox({ name }) {
  const box = h("input", { type: "checkbox", name: "row", value: name });
  box.checked = rows.has(name);
  box.addEventListener("change", () => {
    if (box.checked) rows.add(name);
    else rows.delete(name);
    count();
  });
  return h("label", { class: "check" }, box, " ", name);
}

function cell(side, name) {
  const input = h("input", {
    type: "number",
    step: 0.05,
    placeholder: "–",
    "aria-label": `${name} in mix ${side}`,
    value: sides[side].has(name) ? tidy(sides[side].get(name)) : null,
  });
  input.addEventListener("input", () => {
    if (input.value === "") sides[side].delete(name);
    else sides[side].set(name, input.valueAsNumber);
  });
  return h("td", {}, input);
}

function mixTable() {
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "Adapter"),
    ...["A", "B"].map((side) => h("th", { scope: "col" }, `Mix ${side}`)),
  );
  const body = state.adapters.map(({ name }) =>
    h("tr", {}, h("th", { scope: "row" }, name), cell("A", name), cell("B", name)),
  );
  return [
    h("table", { class: "mixes" }, h("thead", {}, head), h("tbody", {}, body)),
    h("small", {}, "Strengths; what is left empty is not worn."),
  ];
}

function build() {
  for (const name of [...rows]) if (!adapter(name)) rows.delete(name);
  $("compare-rows").replaceChildren(...state.adapters.map(rowBox));
  $("compare-mixes").replaceChildren(...mixTable());
  choose();
}

function choose() {
  const pair = field("comparing").value === "mixes";
  $("compare-mixes").hidden = !pair;
  $("compare-grid").hidden = pair;
  $("adapters-part").hidden = pair && state.view === "compare";
  count();
}

/** What is worn is where a comparison begins. */
function begin() {
  const worn = [...state.worn];
  if (!rows.size)
    (worn.length
      ? worn.map(([name]) => name)
      : state.adapters.slice(0, 2).map(({ name }) => name)
    ).forEach((name) => rows.add(name));
  if (!sides.A.size && !sides.B.size) {
    for (const [name, { strength }] of worn) sides.B.set(name, strength);
    if (!worn.length && state.adapters.length)
      sides.B.set(state.adapters[0].name, state.adapters[0].strength);
  }
  build();
}

export function setup() {
  on("adapters", build);
  on("worn", count);
  on("model", count);
  on("view", (view) => (view === "compare" ? begin() : choose()));
  for (const radio of field("comparing")) radio.addEventListener("change", choose);
  field("strengths").addEventListener("input", count);
}

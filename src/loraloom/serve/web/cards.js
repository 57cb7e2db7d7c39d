// Adapters as cards in the composer: picture, strength, trigger words, details.

import { media } from "./api.js";
import { $, announce, button, bytes, complain, facts, h, plural, tidy } from "./dom.js";
import { insertWords } from "./prompt.js";
import { on, set, stagesOf, state, takeOff, wear } from "./state.js";
import { swatch } from "./swatch.js";

const LOW = -1;
const HIGH = 2;

/** Its picture, or a woven square until there is one. */
export function portrait(adapter) {
  const box = h("span", { class: "portrait" }, swatch(adapter.name, adapter.sha256));
  if (adapter.picture) {
    media(adapter.picture).then(
      (src) => box.replaceChildren(h("img", { src, alt: "" })),
      () => {}, // the woven square stays
    );
  }
  return box;
}

export function details(adapter) {
  const layers = `${adapter.sites}${adapter.of ? ` of ${adapter.of}` : ""}`;
  return facts([
    ["Layers", layers],
    ["Rank", adapter.rank],
    ["Alpha", adapter.alpha],
    ["Format", adapter.format],
    ["Not matched", adapter.unmatched ? plural(adapter.unmatched, "key") : null],
    ["Digest", h("code", {}, (adapter.sha256 || "").slice(0, 16))],
    ["Lies on", tierOf(adapter)],
    ["From", adapter.source],
    ["Also called", adapter.aliases?.join(", ")],
    [
      "Notes",
      adapter.notes?.length
        ? h(
            "ul",
            {},
            adapter.notes.map((note) => h("li", {}, note)),
          )
        : null,
    ],
    ...Object.entries(adapter.about || {}).map(([term, value]) => [term, String(value)]),
  ]);
}

function tierOf(adapter) {
  const users = adapter.users ? `, in use by ${adapter.users}` : "";
  return `${adapter.tier}, ${bytes(adapter.nbytes || 0)}${users}`;
}

/** Trigger words, each of which goes into the prompt. */
export function triggers(adapter) {
  if (!adapter.triggers?.length) return null;
  const words = adapter.triggers.map((trigger) =>
    button(trigger, () => insertWords($("prompt"), trigger), {
      class: "chip",
      title: "Put it into the prompt",
    }),
  );
  return h("p", { class: "chips" }, h("span", { class: "away" }, "Trigger words: "), words);
}

/** A slider and a number that say the same. */
function strengthOf(adapter, how) {
  const name = `Strength of ${adapter.name}`;
  const slider = h("input", { type: "range", min: LOW, max: HIGH, step: 0.05, "aria-label": name });
  const number = h("input", { type: "number", step: 0.05, "aria-label": `${name}, as a number` });
  const show = (strength) => {
    slider.value = strength;
    if (Number(number.value) !== strength || number.value === "") number.value = tidy(strength);
    const part = (Math.min(Math.max(strength, LOW), HIGH) - LOW) / (HIGH - LOW);
    slider.style.setProperty("--at", `${part * 100}%`);
  };
  const take = (strength) => {
    if (!Number.isFinite(strength)) return;
    show(strength);
    wear(adapter.name, strength, state.worn.get(adapter.name)?.stages);
  };
  show(how?.strength ?? adapter.strength ?? 1);
  slider.addEventListener("input", () => take(Number(tidy(slider.valueAsNumber))));
  number.addEventListener("input", () => take(number.valueAsNumber));
  number.addEventListener("change", () => show(now()));
  const now = () => state.worn.get(adapter.name)?.strength ?? Number(slider.value);
  return { row: h("div", { class: "strength" }, slider, number), show, now };
}

/** Other strengths in other stages, where the chosen pipeline has several. */
function byStage(adapter) {
  const names = stagesOf($("composer").elements.pipeline.value);
  if (names.length < 2) return null;
  const field = h("input", {
    "aria-label": `Factors of ${adapter.name} by stage`,
    placeholder: "1, 0.4",
    inputmode: "decimal",
    value: (state.worn.get(adapter.name)?.stages || []).join(", "),
  });
  field.addEventListener("change", () => {
    const stages = field.value
      .split(/[\s,;]+/)
      .filter(Boolean)
      .map(Number);
    const bad = stages.some((factor) => !Number.isFinite(factor));
    field.setAttribute("aria-invalid", bad);
    const strength = state.worn.get(adapter.name)?.strength ?? adapter.strength;
    if (!bad) wear(adapter.name, strength, stages);
  });
  return h(
    "label",
    { class: "field inline" },
    h("span", {}, `Factors: ${names.join(", ")}`),
    field,
  );
}

function card(adapter) {
  const how = state.worn.get(adapter.name);
  const strength = strengthOf(adapter, how);
  const box = h("input", { type: "checkbox", "aria-label": `Wear ${adapter.name}` });
  box.checked = Boolean(how);
  box.addEventListener("change", () => {
    if (!box.checked) takeOff(adapter.name);
    else wear(adapter.name, strength.now());
    announce(`${adapter.name} is ${box.checked ? "worn" : "taken off"}.`);
  });
  const more = h("details", {}, h("summary", {}, "Details"));
  more.addEventListener("toggle", () => {
    more.replaceChildren(
      more.firstChild,
      ...(more.open ? [byStage(adapter), details(adapter)].filter(Boolean) : []),
    );
  });
  const too = h("p", { class: "about", hidden: true });
  const item = h(
    "li",
    { class: "card", data: { name: adapter.name } },
    h(
      "label",
      { class: "card-head" },
      box,
      portrait(adapter),
      h(
        "span",
        { class: "card-name" },
        h("b", {}, adapter.name),
        h("small", {}, `rank ${adapter.rank}, ${plural(adapter.sites, "layer")}`),
      ),
    ),
    strength.row,
    too,
    adapter.about?.description ? h("p", { class: "about" }, adapter.about.description) : null,
    triggers(adapter),
    more,
  );
  return { item, box, more: too, show: strength.show };
}

/** In words, what is asked for of an adapter that the card has no field for. */
const spoken = ({ target, schedule, scopes, version } = {}) =>
  [
    target && `on the ${target} alone`,
    schedule && "by a schedule",
    scopes && "with factors by layer",
    version && `version ${version.slice(0, 12)}`,
  ]
    .filter(Boolean)
    .join(", ");

let cards = new Map();

function paint() {
  for (const [name, { item, box, more, show }] of cards) {
    const how = state.worn.get(name);
    complain(more, spoken(how?.more));
    box.checked = Boolean(how);
    item.classList.toggle("worn", Boolean(how));
    if (how) show(how.strength);
  }
  $("take-all-off").hidden = state.worn.size === 0;
}

function filter() {
  const words = $("find").value.toLowerCase();
  for (const { item } of cards.values())
    item.hidden = !item.textContent.toLowerCase().includes(words);
}

function build() {
  const open = new Set(
    [...cards].filter(([, each]) => each.item.querySelector("details").open).map(([name]) => name),
  );
  cards = new Map(state.adapters.map((adapter) => [adapter.name, card(adapter)]));
  for (const name of open)
    if (cards.has(name)) cards.get(name).item.querySelector("details").open = true;
  $("cards").replaceChildren(...[...cards.values()].map(({ item }) => item));
  $("find").hidden = state.adapters.length < 8;
  for (const name of [...state.worn.keys()]) if (!cards.has(name)) state.worn.delete(name);
  filter();
  paint();
}

export function setup() {
  on("adapters", build);
  on("worn", paint);
  $("find").addEventListener("input", filter);
  $("take-all-off").addEventListener("click", () => {
    set("worn", new Map());
    $("prompt").focus();
    announce("Nothing is worn.");
  });
}

// The fields of the composer: what they say, and what they are filled with.

import { $, complain } from "./dom.js";
import { readTags } from "./prompt.js";
import { adapter, draft, keepDraft, loras, on, sides, state, wear, wearOnly } from "./state.js";
import { clearErrors } from "./wrong.js";

const form = $("composer");
export const field = (name) => form.elements[name];
const number = (name) => (field(name).value === "" ? undefined : field(name).valueAsNumber);
const words = (name) => field(name).value.trim() || undefined;

const OWN = "own";
const KEPT = [
  "prompt",
  "negative",
  "size",
  "width",
  "height",
  "pipeline",
  "n",
  "format",
  "steps",
  "guidance",
  "seed",
  "seconds",
  "frames",
  "fps",
  "strengths",
];
export function size() {
  const chosen = field("size").value;
  if (chosen !== OWN) return chosen;
  return `${field("width").value || "?"}x${field("height").value || "?"}`;
}

/** What pictures, comparisons and videos have in common, without what is left to the server. */
export function common() {
  return {
    prompt: readTags(field("prompt").value).text,
    size: size(),
    seed: number("seed"),
    steps: number("steps"),
    guidance_scale: number("guidance"),
    pipeline: words("pipeline"),
    negative_prompt: words("negative"),
    loras: loras(),
  };
}

export const numberOf = number;

/** Tags become sliders. What is no adapter, or no number, is told and stays. */
export function takeTags() {
  const { text, tags } = readTags(field("prompt").value);
  const bad = tags.find(({ name, strength }) => !adapter(name) || Number.isNaN(strength));
  if (bad) {
    const known = adapter(bad.name);
    const why = known ? `'${bad.given}' is no strength` : `no adapter is called '${bad.name}'`;
    complain($("prompt-says"), `<lora:${bad.name}${known ? `:${bad.given}` : ""}>: ${why}.`);
    return false;
  }
  for (const { name, strength } of tags)
    wear(adapter(name).name, strength ?? adapter(name).strength);
  if (tags.length) field("prompt").value = text;
  complain($("prompt-says"), "");
  return true;
}

export function roll() {
  field("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  form.dispatchEvent(new Event("input"));
}

function sizes(usual, grid) {
  const fit = (ratio) => {
    const area = usual.width * usual.height;
    const snap = (side) => Math.max(Math.round(side / grid), 1) * grid;
    return `${snap(Math.sqrt(area * ratio))}x${snap(Math.sqrt(area / ratio))}`;
  };
  const half = `${snapHalf(usual.width, grid)}x${snapHalf(usual.height, grid)}`;
  return [
    ...new Set([
      `${usual.width}x${usual.height}`,
      half,
      fit(1),
      fit(3 / 2),
      fit(2 / 3),
      fit(16 / 9),
    ]),
  ];
}

const snapHalf = (side, grid) => Math.max(Math.round(side / 2 / grid), 1) * grid;

/** The sizes and pipelines of the model, the usual ones first; what was chosen stays chosen. */
export function offer() {
  if (!state.model) return;
  const { defaults = {}, grid = {}, pipelines = [] } = state.model;
  const usual = sides((state.view === "video" ? defaults.video : defaults.picture)?.size) || {
    width: 512,
    height: 512,
  };
  fill("size", [
    ...sizes(usual, grid.pixels || 8).map((each) => [each, each.replace("x", " × ")]),
    [OWN, "Another…"],
  ]);
  fill(
    "pipeline",
    pipelines.map((name) => [name, name]),
  );
  for (const side of ["width", "height"]) {
    field(side).step = field(side).min = grid.pixels || 1;
    if (!field(side).value) field(side).value = usual[side];
  }
  field("steps").min = grid.steps || 1;
  $("own-size").hidden = field("size").value !== OWN;
}

function fill(name, options) {
  const select = field(name);
  const before = select.value || draft().fields?.[name];
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === before)) select.value = before;
}

/** Fills the fields from the words of an earlier request. */
export function reuse(request, seed) {
  field("prompt").value = request.prompt ?? "";
  field("negative").value = request.negative_prompt ?? "";
  for (const [name, param] of [
    ["steps", "steps"],
    ["guidance", "guidance_scale"],
    ["seconds", "seconds"],
    ["frames", "frames"],
    ["fps", "fps"],
  ]) {
    field(name).value = request[param] ?? "";
  }
  if (request.pipeline) field("pipeline").value = request.pipeline;
  if (request.size) chooseSize(request.size);
  field("seed").value = seed ?? request.seed ?? field("seed").value;
  field("roll").checked = false;
  const gone = request.loras ? wearOnly(request.loras) : [];
  clearErrors();
  if (gone.length) complain($("adapters-says"), `No longer there: ${gone.join(", ")}.`);
  form.dispatchEvent(new Event("input"));
}

function chooseSize(text) {
  const select = field("size");
  if ([...select.options].some((option) => option.value === text)) select.value = text;
  else {
    const { width, height } = sides(text) || {};
    [select.value, field("width").value, field("height").value] = [OWN, width ?? "", height ?? ""];
  }
  $("own-size").hidden = select.value !== OWN;
}

function restore() {
  const { fields = {} } = draft();
  for (const name of KEPT) if (fields[name] !== undefined) field(name).value = fields[name];
  field("roll").checked = fields.roll ?? true;
  if (!field("seed").value) roll();
}

function keep() {
  const fields = Object.fromEntries(KEPT.map((name) => [name, field(name).value]));
  keepDraft({ ...fields, roll: field("roll").checked });
}

export function setup() {
  restore();
  form.addEventListener("input", (event) => {
    event.target.removeAttribute?.("aria-invalid");
    $("own-size").hidden = field("size").value !== OWN;
    keep();
  });
  field("prompt").addEventListener("change", takeTags);
  on("worn", keep);
  on("model", offer);
  on("view", offer);
  $("die").addEventListener("click", () => {
    roll();
    field("roll").checked = false;
  });
}

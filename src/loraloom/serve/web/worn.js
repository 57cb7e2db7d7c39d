// What a result wore, its facts and its times.

import { facts as list, h, plural, seconds, tidy } from "./dom.js";
import { stagesOf } from "./state.js";
import { swatch } from "./swatch.js";

const PARTS = [
  ["queue", "waiting"],
  ["load", "loading adapters"],
  ["switch", "switching"],
  ["steps", "steps"],
  ["decode", "decoding"],
  ["encode", "encoding"],
];

function byStage(worn, names) {
  if (!worn.stages?.length) return null;
  const spoken = worn.stages.map(
    (factor, at) => `${names[at] || `stage ${at + 1}`} ${tidy(worn.scale * factor)}`,
  );
  return h("span", { class: "stages" }, spoken.join(", "));
}

function one(worn, names) {
  const layers =
    plural(worn.sites, "layer") +
    (worn.unmatched ? `, ${plural(worn.unmatched, "key")} not matched` : "");
  return h(
    "li",
    {},
    swatch(worn.name, worn.sha256),
    h(
      "span",
      { class: "worn-name" },
      h("b", {}, worn.name),
      " ",
      h("span", { class: "figure" }, worn.scale ? tidy(worn.scale) : "taken off"),
      byStage(worn, names),
    ),
    h(
      "small",
      {},
      `${layers}, rank ${worn.rank}, `,
      worn.why === "asked for" ? worn.mode : `${worn.mode}: ${worn.why}`,
      worn.by === "stage" ? ", brought by a stage" : "",
      worn.target ? `, on the ${worn.target} alone` : "",
      " · ",
      h("code", { title: worn.sha256 }, (worn.sha256 || "").slice(0, 12)),
    ),
  );
}

export function wornList(loras, job, title) {
  const names = stagesOf(job.request?.pipeline);
  const items = (loras || []).map((each) => one(each, names));
  return h(
    "section",
    { class: "wearing" },
    h("h3", {}, title),
    items.length
      ? h("ul", { class: "threads" }, ...items)
      : h("p", { class: "pale" }, "No adapter: the base model."),
  );
}

export function facts(job, result) {
  const {
    pipeline,
    steps,
    guidance_scale: guidance,
    frames,
    negative_prompt: negative,
  } = job.request || {};
  return list([
    ["Seed", result.seed],
    ["Size", job.size?.replace("x", " × ")],
    ["Frames", frames],
    ["Pipeline", pipeline],
    ["Steps", steps],
    ["Guidance", guidance],
    ["Negative prompt", negative],
    ["Made", job.ended_at ? new Date(job.ended_at * 1000).toLocaleString() : null],
  ]);
}

/** Where the time went, as a bar and in words. */
export function timings(times) {
  if (!times) return null;
  const spent = PARTS.map(([name, words]) => ({ name, words, time: times[`${name}_s`] || 0 }));
  const whole = times.total_s || spent.reduce((sum, { time }) => sum + time, 0);
  const bar = h("div", { class: "times", "aria-hidden": "true" });
  for (const { name, time } of spent) {
    const part = h("i", { data: { part: name } });
    part.style.setProperty("flex-grow", String(time));
    bar.append(part);
  }
  const words = spent
    .filter(({ time }) => time > 0)
    .map(({ name, words: said, time }) =>
      h(
        "li",
        {},
        h("i", { data: { part: name }, "aria-hidden": "true" }),
        `${said} ${seconds(time)}`,
      ),
    );
  return h(
    "section",
    { class: "timing" },
    h("h3", {}, `Took ${seconds(whole)}`),
    bar,
    h("ul", {}, ...words),
  );
}

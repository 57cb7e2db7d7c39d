// The job that is shown: progress, then pictures or a player, what was worn, and what to do next.

import { media, UNDER_WAY } from "./api.js";
import { layout } from "./compare.js";
import { $, button, complain, h } from "./dom.js";
import { cancel, kindOf, resume, statusOf } from "./jobs.js";
import { frame, made } from "./pictures.js";
import { again, asFirstImage } from "./reuse.js";
import { on, state } from "./state.js";
import { facts, timings, wornList } from "./worn.js";

const ENDS = {
  cancelled: "It was cancelled.",
  interrupted: "The server stopped before it was done.",
  expired: "The result is no longer kept.",
};
let painted = "";
let bar = null;

function suffix(job) {
  return job.kind === "video" ? "mp4" : job.request?.output_format || "png";
}

function fileName(job, result, mark) {
  const words = (job.request?.prompt || "loraloom")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 48);
  return `${words.replace(/^-|-$/g, "")}-${result.seed ?? 0}${mark}.${suffix(job)}`;
}

function progress(job) {
  bar = {
    line: h("progress", { max: 100, "aria-label": "Progress" }),
    words: h("p", { class: "pale" }),
  };
  step(job);
  const stop = button("Cancel", () => cancel(job.id), { id: "cancel" });
  const lies = job.request?.mixes ? layout(job.request.mixes) : {};
  const box = h("div", { class: "waiting" }, bar.words, bar.line, stop);
  return frame(job, box, lies.columns?.length, lies.names?.length);
}

function step(job) {
  const words = statusOf(job);
  bar.words.textContent = words[0].toUpperCase() + words.slice(1);
  bar.line.value = job.progress || 0;
}

async function download(job, result, place, mark = "") {
  try {
    h("a", { href: await media(result.url), download: fileName(job, result, mark) }).click();
  } catch (error) {
    complain(place, error.message);
  }
}

/** What was worn, how long it took, and what to do next, of the chosen picture. */
function told(job, chosen = 0) {
  const pairs = job.request?.mixes?.length === 2 ? job.results : null;
  const result = job.results[chosen];
  const says = h("p", { class: "error", role: "alert", hidden: true });
  const actions = h(
    "p",
    { class: "actions" },
    ...(pairs
      ? pairs.map((each, at) =>
          button(`Download ${"AB"[at]}`, () => download(job, each, says, "ab"[at])),
        )
      : [button("Download", () => download(job, result, says))]),
    button("Reuse settings", () => again(job, result)),
    pairs || job.kind === "video" || !state.model?.abilities?.images
      ? null
      : button("First image of a video", () => asFirstImage(result.url, says)),
  );
  const lists = pairs
    ? pairs.map((each, at) => wornList(each.loras, job, `Mix ${"AB"[at]} wore`))
    : [wornList(result.loras, job, job.results.length > 1 ? "This one wore" : "Worn")];
  return h(
    "div",
    { class: "told" },
    actions,
    says,
    ...lists,
    facts(job, result),
    timings(job.timings),
  );
}

function ended(job) {
  if (job.status === "completed" && job.results?.length) return [made(job), told(job)];
  const words = ENDS[job.status] || job.error?.message || "There is no result.";
  const bad = job.status === "failed";
  return [
    frame(
      job,
      h(
        "div",
        { class: bad ? "waiting bad" : "waiting" },
        h(
          "p",
          { role: bad ? "alert" : null, class: bad ? "error" : "pale" },
          bad ? `It failed: ${words}` : words,
        ),
        h(
          "p",
          { class: "actions" },
          button("Reuse settings", () => again(job, {})),
          job.status === "interrupted" ? button("Run it again", () => resume(job.id)) : null,
        ),
      ),
    ),
  ];
}

function welcome() {
  return [
    h(
      "div",
      { class: "waiting empty" },
      h("p", {}, "What a picture wears is part of its request."),
      h("p", { class: "pale" }, "Write a prompt, wear an adapter or two, and generate."),
    ),
  ];
}

function paint() {
  const job = state.jobs.get(state.shown);
  const now = job
    ? `${job.id} ${UNDER_WAY.has(job.status) ? "under way" : job.status} ${job.results?.length}`
    : "";
  if (now && now === painted) {
    if (UNDER_WAY.has(job.status)) step(job);
    return;
  }
  const held = document.activeElement?.id === "cancel";
  painted = now;
  const head = job
    ? h(
        "header",
        {},
        h("p", { class: "kind" }, kindOf(job)),
        h("h2", {}, job.request?.prompt || ""),
      )
    : null;
  const body = !job ? welcome() : UNDER_WAY.has(job.status) ? [progress(job)] : ended(job);
  $("stage").replaceChildren(...[head, ...body].filter(Boolean));
  $("stage").setAttribute("aria-busy", String(Boolean(job && UNDER_WAY.has(job.status))));
  if (held) $("generate").focus();
}

export function setup() {
  $("stage").addEventListener("chosen", ({ detail: chosen }) => {
    const job = state.jobs.get(state.shown);
    $("stage").querySelector(".told").replaceWith(told(job, chosen));
  });
  on("jobs", paint);
  on("shown", paint);
  on("model", paint);
  paint();
}

// Jobs: found again after a reload, followed while under way, and the strip of recent ones.

import { call, media, UNDER_WAY, watch } from "./api.js";
import { $, announce, h, plural } from "./dom.js";
import { changed, on, set, state } from "./state.js";

const KINDS = { images: "Picture", edits: "Edit", video: "Video" };
const ENDED = {
  completed: "is ready",
  failed: "failed",
  cancelled: "was cancelled",
  interrupted: "was interrupted",
};

export const kindOf = (job) => (job.request?.mixes ? "Comparison" : KINDS[job.kind] || "Job");

/** What a person hears of a job. */
export function statusOf(job) {
  if (job.status === "queued" && job.position > 0)
    return `waiting, ${plural(job.position, "job")} before it`;
  if (job.status === "queued") return "waiting";
  if (job.status !== "running") return job.status;
  return job.step ? `${job.step.stage}: step ${job.step.done} of ${job.step.of}` : "starting";
}

export function show(id) {
  set("shown", id);
}

const followed = new Set();

/** Keeps a job up to date until it ends. */
export async function follow(job) {
  put(job);
  if (followed.has(job.id) || !UNDER_WAY.has(job.status)) return;
  followed.add(job.id);
  try {
    for await (const now of watch(job.id)) put(now);
    const ended = state.jobs.get(job.id);
    announce(`${kindOf(ended)} ${ENDED[ended.status] || ended.status}.`);
  } catch (error) {
    put({ id: job.id, status: "failed", error: { code: error.code, message: error.message } });
  } finally {
    followed.delete(job.id);
  }
}

function put(job) {
  const before = state.jobs.get(job.id) || {};
  state.jobs.set(job.id, { ...before, ...job });
  changed("jobs");
}

export async function cancel(id) {
  try {
    put(await call("DELETE", `/v1/jobs/${id}`));
    announce("Cancelling.");
  } catch (error) {
    announce(error.message);
  }
}

export async function resume(id) {
  follow(await call("POST", `/v1/jobs/${id}/resume`));
}

/** Jobs of before, oldest first into the map, so that the newest come first in the strip. */
export async function recall() {
  const { data } = await call("GET", "/v1/jobs?limit=30");
  for (const job of [...data].reverse()) follow(job);
  const first =
    data.find((job) => UNDER_WAY.has(job.status)) || data.find((job) => job.status === "completed");
  if (first && !state.shown) show(first.id);
}

const newestFirst = () => [...state.jobs.values()].sort((a, b) => b.created_at - a.created_at || 0);
const tiles = new Map();

function tile(job) {
  const bar = h("span", { class: "tile-bar" });
  const picture = h("span", { class: "tile-picture" }, bar);
  const button = h(
    "button",
    { type: "button", class: "tile", onclick: () => show(job.id) },
    picture,
  );
  return { item: h("li", {}, button), button, picture, bar, status: null };
}

function thumbnail(one, job) {
  const [first] = job.results || [];
  if (job.status !== "completed" || !first?.url) {
    const mark = { failed: "!", cancelled: "×", interrupted: "…", expired: "–" }[job.status] || "";
    one.picture.replaceChildren(
      h("span", { class: "tile-mark", "aria-hidden": "true" }, mark),
      one.bar,
    );
    return;
  }
  const small =
    job.kind === "video" ? `/v1/videos/video_${job.id}/content?variant=thumbnail` : first.url;
  media(small).then(
    (src) => one.picture.replaceChildren(h("img", { src, alt: "" })),
    () =>
      one.picture.replaceChildren(h("span", { class: "tile-mark", "aria-hidden": "true" }, "–")),
  );
}

function paint() {
  const jobs = newestFirst();
  $("recent-hint").hidden = jobs.length > 0;
  jobs.forEach((job, at) => {
    if (!tiles.has(job.id)) tiles.set(job.id, tile(job));
    const one = tiles.get(job.id);
    if ($("strip").children[at] !== one.item)
      $("strip").insertBefore(one.item, $("strip").children[at] || null);
    if (one.status !== job.status) thumbnail(one, job);
    one.status = job.status;
    one.bar.style.setProperty("--at", `${job.progress || 0}%`);
    const words = `${kindOf(job)}, ${UNDER_WAY.has(job.status) ? "under way" : job.status}: ${job.request?.prompt || ""}`;
    one.button.setAttribute("aria-label", words);
    one.button.title = words;
    one.button.dataset.status = job.status;
    one.button.setAttribute("aria-current", String(job.id === state.shown));
  });
}

export function setup() {
  on("jobs", paint);
  on("shown", paint);
}

// What jobs made: a picture, several to choose from, a labelled grid, a wipe, a player.

import { media } from "./api.js";
import { layout, mixWords } from "./compare.js";
import { h, tidy } from "./dom.js";
import { sides } from "./state.js";
import { wipe } from "./wipe.js";

/** Keeps the place of pictures before they are there; `across` and `down` of them. */
export function frame(job, element, across = 1, down = 1) {
  const size = sides(job.size) || { width: 512, height: 512 };
  element.style.setProperty("--ratio", `${size.width * across} / ${size.height * down}`);
  element.style.setProperty("--wide", across > 1 ? "100%" : `${Math.max(size.width * 3, 320)}px`);
  return element;
}

function picture(job, result, words) {
  const box = frame(job, h("span", { class: "frame" }));
  media(result.url).then(
    (src) => box.replaceChildren(h("img", { src, alt: words })),
    (error) => box.replaceChildren(h("span", { class: "error" }, error.message)),
  );
  return box;
}

/** One of several pictures, to be chosen; the first one is. */
function choice(job, at, words) {
  const pick = ({ currentTarget: own }) => {
    own.closest("article").querySelector("[aria-pressed=true]").ariaPressed = "false";
    own.ariaPressed = "true";
    own.dispatchEvent(new CustomEvent("chosen", { bubbles: true, detail: at }));
  };
  const pressed = String(at === 0);
  return h(
    "button",
    { type: "button", class: "pick", "aria-pressed": pressed, "aria-label": words, onclick: pick },
    picture(job, job.results[at], ""),
  );
}

function grid(job, { names, columns }) {
  const head = h(
    "tr",
    {},
    h("td"),
    ...columns.map((scale) => h("th", { scope: "col" }, tidy(scale))),
  );
  const rows = names.map((name, row) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      ...columns.map((scale, column) =>
        h("td", {}, choice(job, row * columns.length + column, `${name} at ${tidy(scale)}`)),
      ),
    ),
  );
  const table = h("table", { class: "compared" }, h("thead", {}, head), h("tbody", {}, ...rows));
  table.style.setProperty("--columns", columns.length);
  return h(
    "div",
    { class: "wide", tabindex: 0, role: "group", "aria-label": "Strengths × adapters" },
    table,
  );
}

function pair(job, words) {
  const box = frame(job, h("div", { class: "frame" }));
  Promise.all(job.results.map(({ url }) => media(url))).then(
    ([a, b]) => {
      const figure = frame(job, wipe({ src: a, words: words[0] }, { src: b, words: words[1] }));
      box.replaceWith(figure);
    },
    (error) => box.replaceChildren(h("span", { class: "error" }, error.message)),
  );
  return box;
}

function player(job) {
  const box = frame(job, h("div", { class: "frame" }));
  media(job.results[0].url).then(
    (src) =>
      box.replaceChildren(
        h("video", {
          src,
          controls: true,
          loop: true,
          playsinline: true,
          "aria-label": `Video: ${job.request?.prompt || ""}`,
        }),
      ),
    (error) => box.replaceChildren(h("span", { class: "error" }, error.message)),
  );
  return box;
}

/** What a job made, as it is best looked at. */
export function made(job) {
  const { results, request = {} } = job;
  if (job.kind === "video") return player(job);
  if (request.mixes && results.length === request.mixes.length) {
    const lies = layout(request.mixes);
    if (lies.pair) return pair(job, lies.pair);
    if (lies.names) return grid(job, lies);
    return gallery(job, request.mixes.map(mixWords));
  }
  const seeds = results.map(({ seed }) => `Seed ${seed}`);
  if (seeds.length > 1) return gallery(job, seeds);
  return picture(job, results[0], request.prompt || "The picture");
}

function gallery(job, words) {
  const figures = words.map((each, at) =>
    h("figure", {}, choice(job, at, each), h("figcaption", {}, each)),
  );
  return h("div", { class: "gallery" }, ...figures);
}

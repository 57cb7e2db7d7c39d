// What an inspection found: whether a file fits, counts, problems with near misses, layers.

import { facts, h, plural, tidy } from "./dom.js";

function problem({ key, reason, near, detail }) {
  const close = near?.length
    ? h(
        "p",
        { class: "near" },
        "Near: ",
        ...near.flatMap((each, at) => [at ? ", " : "", h("code", {}, each)]),
      )
    : null;
  return h(
    "li",
    {},
    h("code", {}, key),
    h("p", {}, [reason, detail].filter(Boolean).join(": ")),
    close,
  );
}

function problems({ problems: found = [], problem_count: count = found.length }) {
  if (!found.length) return null;
  const more =
    count > found.length ? h("p", { class: "pale" }, `and ${count - found.length} more`) : null;
  return h(
    "section",
    {},
    h("h3", {}, plural(count, "problem")),
    h("ol", { class: "problems" }, ...found.map(problem)),
    more,
  );
}

function layers({ layers: found = [], sites }) {
  if (!found.length) return null;
  const head = ["Layer", "Rank", "Alpha", "Scale"].map((words) => h("th", { scope: "col" }, words));
  const rows = found.map(({ site, rank, alpha, scale }) =>
    h(
      "tr",
      {},
      h("td", {}, h("code", {}, site)),
      ...[rank, alpha, scale].map((each) =>
        h("td", { class: "number" }, typeof each === "number" ? tidy(each) : String(each ?? "–")),
      ),
    ),
  );
  const more = sites > found.length ? `, the first ${found.length} of ${sites}` : "";
  return h(
    "details",
    {},
    h("summary", {}, `Layers${more}`),
    h(
      "div",
      { class: "wide", tabindex: 0, role: "group", "aria-label": "Layers" },
      h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows)),
    ),
  );
}

const components = ({ by_component: by }) =>
  Object.entries(by)
    .map(([name, count]) => `${name} ${count}`)
    .join(", ");

/** The first words of a reason; what follows them is told problem by problem. */
function reason({ reason: said, problems: found = [] }) {
  if (!said) return null;
  const short = found.length ? said.split("; ")[0] : said;
  const whole =
    short === said
      ? null
      : h("details", {}, h("summary", {}, "In full"), h("p", { class: "reason" }, said));
  return h("div", {}, h("p", { class: "reason" }, short), whole);
}

export function report(found) {
  const verdict = found.fits ? "It fits." : "It does not fit.";
  return h(
    "article",
    { class: "panel report" },
    h("p", { class: `verdict ${found.fits ? "good" : "bad"}` }, verdict),
    reason(found),
    facts([
      ["Keys used", found.keys === undefined ? null : `${found.used} of ${found.keys}`],
      ["Layers", found.of ? `${found.sites} of ${found.of}` : found.sites],
      ["By component", components(found)],
      ["Rank", found.rank],
      ["Alpha", found.alpha],
      ["Scale", found.scale],
      ["Format", found.format],
      [
        "Notes",
        found.notes?.length ? h("ul", {}, ...found.notes.map((note) => h("li", {}, note))) : null,
      ],
      ...Object.entries(found.about || {}).map(([term, value]) => [term, String(value)]),
    ]),
    problems(found),
    layers(found),
  );
}

// The catalogue: what there is, and pinning, changing and withdrawing it.

import { call } from "./api.js";
import { details, portrait } from "./cards.js";
import { $, announce, button, complain, h, labelled, plural, tidy } from "./dom.js";
import { on, set, state } from "./state.js";

export async function refresh() {
  const { data } = await call("GET", "/v1/adapters");
  set("adapters", data);
}

const at = (name) => `/v1/adapters/${encodeURIComponent(name)}`;

/** Does something to the catalogue and shows it anew; what goes wrong is told on the card. */
async function act(place, words, deed) {
  complain(place, "");
  try {
    const answer = await deed();
    await refresh();
    announce(typeof words === "function" ? words(answer) : words);
  } catch (error) {
    complain(place, error.message);
  }
}

export const listed = (text) =>
  text
    .split(",")
    .map((each) => each.trim())
    .filter(Boolean);

function label(adapter, says) {
  const strength = h("input", { type: "number", step: 0.05, value: tidy(adapter.strength) });
  const triggers = h("input", { value: (adapter.triggers || []).join(", ") });
  const aliases = h("input", { value: (adapter.aliases || []).join(", "), spellcheck: "false" });
  const save = (event) => {
    event.preventDefault();
    const body = {
      strength: strength.valueAsNumber,
      triggers: listed(triggers.value),
      aliases: listed(aliases.value),
    };
    act(says, `${adapter.name} is changed.`, () => call("PATCH", at(adapter.name), body));
  };
  return h(
    "form",
    { class: "label", onsubmit: save, novalidate: true },
    labelled("Usual strength", strength),
    labelled("Trigger words", triggers, "with commas between them"),
    labelled("Other names", aliases, "with commas between them"),
    h("button", {}, "Save"),
  );
}

/** Withdrawing asks once more, in place of the button. */
function withdrawal(adapter, says) {
  const ask = button("Withdraw", () => {
    const sure = button(
      `Withdraw ${adapter.name} for good`,
      () =>
        act(
          says,
          ({ in_use: users }) =>
            `${adapter.name} is withdrawn${users ? `; ${plural(users, "request")} under way still wear it` : ""}.`,
          () => call("DELETE", at(adapter.name)),
        ),
      { class: "danger" },
    );
    const keep = button("Keep it", () => {
      box.replaceChildren(ask);
      ask.focus();
    });
    box.replaceChildren(sure, keep);
    keep.focus();
  });
  const box = h("span", { class: "actions" }, ask);
  return box;
}

function entry(adapter) {
  const says = h("p", { class: "error", role: "alert", hidden: true });
  const pin = button(
    adapter.pinned ? "Unpin" : "Pin",
    () =>
      act(says, `${adapter.name} is ${adapter.pinned ? "no longer pinned" : "pinned"}.`, () =>
        call("POST", `${at(adapter.name)}/pin`, { pinned: !adapter.pinned }),
      ),
    { "aria-pressed": String(adapter.pinned), title: "A pinned adapter stays in memory" },
  );
  const marks = [
    adapter.bundled ? "comes with the model" : null,
    adapter.pinned ? "pinned" : null,
    adapter.tier,
  ].filter(Boolean);
  return h(
    "li",
    { class: "entry", data: { name: adapter.name } },
    portrait(adapter),
    h(
      "div",
      {},
      h("h2", {}, adapter.name),
      h(
        "p",
        { class: "pale" },
        `${plural(adapter.sites, "layer")}, rank ${adapter.rank} · ${marks.join(" · ")}`,
      ),
      adapter.about?.description ? h("p", { class: "about" }, adapter.about.description) : null,
      adapter.triggers?.length
        ? h(
            "p",
            { class: "chips" },
            ...adapter.triggers.map((each) => h("span", { class: "chip still" }, each)),
          )
        : null,
      h("details", {}, h("summary", {}, "Details"), details(adapter)),
      h("details", {}, h("summary", {}, "Change"), label(adapter, says)),
      h("p", { class: "actions" }, pin, withdrawal(adapter, says)),
      says,
    ),
  );
}

export function setup() {
  on("adapters", () => $("shelf").replaceChildren(...state.adapters.map(entry)));
}

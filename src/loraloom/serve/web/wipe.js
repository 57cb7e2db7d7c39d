// Two pictures over each other with an edge between them: drag it, or use the arrow keys.

import { h } from "./dom.js";

/** `left` and `right` are {src, words}; the slider is a real one, so keys and touch work by themselves. */
export function wipe(left, right) {
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 1,
    value: 50,
    "aria-label": `How much of mix A (${left.words}) is seen beside mix B (${right.words})`,
  });
  const box = h(
    "div",
    { class: "wipe" },
    h("img", { src: right.src, alt: `Mix B: ${right.words}` }),
    h("img", { src: left.src, alt: `Mix A: ${left.words}`, class: "over" }),
    h("span", { class: "edge", "aria-hidden": "true" }),
    slider,
  );
  const move = () => {
    box.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} percent of A`);
  };
  slider.addEventListener("input", move);
  move();
  return h(
    "figure",
    { class: "wiping" },
    box,
    h(
      "figcaption",
      {},
      h("span", {}, h("b", {}, "A "), left.words),
      h("span", {}, right.words, h("b", {}, " B")),
    ),
  );
}

// Makes elements. Everything that comes from the server is text here, never markup.

const SVG = "http://www.w3.org/2000/svg";

function dress(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  return element;
}

/** An element with attributes, `on…` listeners, and children that are nodes or text. */
export function h(tag, props = {}, ...children) {
  const element = dress(document.createElement(tag), props);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, props = {}, ...children) {
  const element = dress(document.createElementNS(SVG, tag), props);
  element.append(...children.flat());
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Says something to people who hear the page; the same words twice are said twice. */
export function announce(words) {
  const live = $("live");
  live.textContent = live.textContent === words ? `${words}\u00a0` : words;
}

/** Writes words into a place for them, or takes them away; `role=alert` makes them heard. */
export function complain(place, words) {
  place.textContent = words || "";
  place.hidden = !words;
}

export function button(words, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, words);
}

/** A label above what it names. */
export function labelled(words, control, hint = null) {
  return h(
    "label",
    { class: "field" },
    h("span", {}, words),
    control,
    hint ? h("small", {}, hint) : null,
  );
}

/** Facts as terms and their values; what is empty is left out. */
export function facts(pairs) {
  const list = h("dl", { class: "facts" });
  for (const [term, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(h("dt", {}, term), h("dd", {}, value));
  }
  return list;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (count >= 1000 && at < units.length - 1) [count, at] = [count / 1000, at + 1];
  return `${count >= 100 || at === 0 ? Math.round(count) : count.toFixed(1)} ${units[at]}`;
}

export function seconds(time) {
  if (time < 0.0095) return `${(time * 1000).toFixed(time < 0.00095 ? 1 : 0)} ms`;
  if (time < 0.995) return `${Math.round(time * 1000)} ms`;
  return `${time.toFixed(time < 10 ? 2 : 1)} s`;
}

/** A number without the tail that adding up floats leaves. */
export const tidy = (number) => String(Math.round(number * 1000) / 1000);

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** Copies text; without a secure context there is no clipboard, so a selection is copied. */
export async function copy(text, near) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else {
    const area = h("textarea", { class: "away", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    near?.focus();
  }
  announce("Copied.");
}

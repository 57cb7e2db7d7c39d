// A woven square for an adapter without a picture, the same for the same bytes.

import { svg } from "./dom.js";

const SIDE = 6;

function hue(digest, at) {
  return parseInt(digest.slice(at, at + 4), 16) % 360;
}

/** Threads over and under by the bits of the digest, and the first letters of the name. */
export function swatch(name, digest) {
  const hex = /^[0-9a-f]{16,}$/.test(digest || "") ? digest : "5b3f9a1c7e2d8046";
  const warp = `hsl(${hue(hex, 0)} 42% 36%)`;
  const weft = `hsl(${(hue(hex, 0) + 30 + (hue(hex, 4) % 60)) % 360} 48% 46%)`;
  const bits = parseInt(hex.slice(8, 13), 16) | 1;
  const cells = [];
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      const over = (bits >> ((x + y * ((bits % 3) + 1)) % 20)) & 1;
      const [width, height] = over ? [1, 0.72] : [0.72, 1];
      const [dx, dy] = over ? [0, 0.14] : [0.14, 0];
      const fill = over ? weft : warp;
      cells.push(svg("rect", { x: x + dx, y: y + dy, width, height, fill }));
    }
  }
  const letter = svg(
    "text",
    { x: 3, y: 3.06, "text-anchor": "middle", "dominant-baseline": "central", class: "letter" },
    [...name.replace(/[^\p{L}\p{N}]/gu, "")].slice(0, 1).join("").toUpperCase() || "·",
  );
  const ground = svg("rect", { width: SIDE, height: SIDE, fill: `hsl(${hue(hex, 0)} 40% 24%)` });
  return svg(
    "svg",
    { viewBox: `0 0 ${SIDE} ${SIDE}`, class: "swatch", "aria-hidden": "true" },
    ground,
    ...cells,
    letter,
  );
}

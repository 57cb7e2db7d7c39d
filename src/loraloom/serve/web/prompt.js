// Tags in a prompt, <lora:name:0.8>: sugar of this page, which becomes sliders before anything is sent.

const TAG = /<lora:([^:<>]+?)(?::([^:<>]*))?>/g;

/** The prompt without its tags, and what they ask for. A strength left out is the adapter's own. */
export function readTags(prompt) {
  const found = [];
  const rest = prompt.replace(TAG, (_, name, strength) => {
    const given = strength?.trim() || "";
    found.push({ name: name.trim(), strength: given === "" ? null : Number(given), given });
    return "";
  });
  if (!found.length) return { text: prompt, tags: [] };
  return {
    text: rest
      .replace(/[ \t]{2,}/g, " ")
      .replace(/ +([,.])/g, "$1")
      .trim(),
    tags: found,
  };
}

/** Puts words in where the cursor is, with the comma that a prompt wants. */
export function insertWords(area, words) {
  const before = area.value.slice(0, area.selectionStart);
  const after = area.value.slice(area.selectionEnd);
  const lead = before.trim() === "" ? "" : /[,\s]$/.test(before) ? "" : ", ";
  const glue = lead === "" && /,$/.test(before) ? " " : lead;
  const tail = after.trim() === "" || /^[,.\s]/.test(after) ? "" : ", ";
  area.value = `${before}${glue}${words}${tail}${after}`;
  const end = before.length + glue.length + words.length;
  area.setSelectionRange(end, end);
  area.dispatchEvent(new Event("input", { bubbles: true }));
  area.focus();
}

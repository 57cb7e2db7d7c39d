// Light or dark before the first paint; not a module, because those wait for the whole page.
"use strict";
{
  const kept = localStorage.getItem("loraloom-theme");
  if (kept) document.documentElement.dataset.theme = kept;
}

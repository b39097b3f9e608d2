"use strict";
const rows = document.getElementById("rows");
const order = document.getElementById("order");
const filter = document.getElementById("filter");
const count = document.getElementById("count");

// order: what a row has no number for comes last
const sort = () => {
  const [key, direction] = order.value.split(" ");
  const value = row => {
    const text = row.getAttribute(`data-${key}`);
    return text === null ? Infinity : Number(direction) * Number(text);
  };
  rows.append(...[...rows.children].sort((a, b) => value(a) - value(b)));
};
order.addEventListener("change", sort);

filter.addEventListener("input", () => {
  const text = filter.value.trim().toLowerCase();
  let shown = 0;
  for (const row of rows.children) {
    row.hidden = !row.querySelector("h3").textContent.toLowerCase().includes(text);
    shown += !row.hidden;
  }
  count.textContent = `${shown} rows`;
});

// light and dark: the system's choice, or the reader's
const button = document.getElementById("theme");
const remember = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  set: value => { try { localStorage.setItem("theme", value); } catch { /* a page of a file may not remember */ } } };
const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const show = () => { button.textContent = dark() ? "Light" : "Dark"; };
const saved = remember.get();
if (saved === "dark" || saved === "light") document.documentElement.dataset.theme = saved;
button.hidden = false;
button.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  remember.set(document.documentElement.dataset.theme);
  show();
});
show();

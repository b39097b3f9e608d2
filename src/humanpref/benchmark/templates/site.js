"use strict";
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// tabs: buttons of a list show the panel they control and hide its neighbours
for (const list of all("[data-tabs]")) {
  const buttons = all("[role=tab]", list);
  const choose = button => {
    for (const other of buttons) {
      other.setAttribute("aria-selected", String(other === button));
      document.getElementById(other.getAttribute("aria-controls")).hidden = other !== button;
    }
  };
  for (const button of buttons) button.addEventListener("click", () => choose(button));
  list.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    next.focus();
    choose(next);
  });
}

// tables: a click on a heading sorts by it, a second one the other way round
const valueOf = cell => {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number.parseFloat(text.replace("−", "-").replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
};
for (const table of all("table[data-sortable]")) {
  const heads = all("thead th", table);
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending" || (head.getAttribute("aria-sort") === "none" && column < 2);
    for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map(row => [valueOf(row.cells[column]), row]);
    const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
      : typeof a === "number" ? -1 : typeof b === "number" ? 1 : a.localeCompare(b);
    rows.sort(([a], [b]) => up ? compare(a, b) : compare(b, a));
    const [texts, numbers] = [rows.filter(([v]) => typeof v === "string"), rows.filter(([v]) => typeof v === "number")];
    const ordered = numbers.length ? [...numbers, ...texts] : texts; // what has no number comes last
    table.tBodies[0].append(...ordered.map(([, row]) => row));
  }));
}

// filters of a leaderboard
const refresh = id => {
  const section = document.getElementById(id);
  const text = section.querySelector("[data-filter]").value.trim().toLowerCase();
  const published = section.querySelector("[data-published]")?.checked ?? true;
  for (const row of all("tbody tr", section)) {
    const name = row.cells[1].textContent.toLowerCase();
    row.hidden = !name.includes(text) || (!published && row.classList.contains("published"));
  }
};
for (const box of all("[data-filter]")) box.addEventListener("input", () => refresh(box.dataset.filter));
for (const box of all("[data-published]")) box.addEventListener("change", () => refresh(box.dataset.published));

// filters and order of lists of prompts and images
for (const box of all("[data-filter-list]")) {
  const list = document.getElementById(box.dataset.filterList);
  const count = document.querySelector(`[data-count="${box.dataset.filterList}"]`);
  box.addEventListener("input", () => {
    const text = box.value.trim().toLowerCase();
    let shown = 0;
    for (const item of list.children) {
      const what = item.matches("figure") ? item.querySelector("figcaption a") : item.querySelector("a");
      item.hidden = !what.textContent.toLowerCase().includes(text);
      shown += !item.hidden;
    }
    if (count) count.textContent = `${shown} prompts`;
  });
}
for (const select of all("[data-sort-list]")) {
  const list = document.getElementById(select.dataset.sortList);
  select.addEventListener("change", () => {
    const sign = select.value === "spread" ? -1 : 1;
    const key = item => sign * Number(item.dataset[select.value]);
    list.append(...[...list.children].sort((a, b) => key(a) - key(b)));
  });
}

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

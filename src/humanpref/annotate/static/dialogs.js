// The dialogs: a picture enlarged, the reason for a skip, the last answers, help.

import { $, placeText, text } from "./cards.js";
import * as order from "./order.js";

// Every dialog closes by its button, by Esc (of itself) and by a click beside it.
export function enableDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", event => {
      if (event.target === dialog || event.target.closest(".close")) dialog.close();
    });
  }
  $("open-help").addEventListener("click", () => $("help").showModal());
}

export function isDialogOpen() {
  return document.querySelector("dialog[open]") !== null;
}

// ---- a picture enlarged. `look()` gives { task, state }; `choose(position)` is what pressing the picture does.

export function enableZoom(look, choose) {
  const dialog = $("zoom");
  const turn = by => {
    const count = look().task.images.length;
    showZoomed(look, (Number(dialog.dataset.position) + by + count) % count);
  };
  const take = position => {
    choose(position);
    showZoomed(look, position);
  };
  dialog.querySelector(".previous").addEventListener("click", () => turn(-1));
  dialog.querySelector(".next").addEventListener("click", () => turn(1));
  dialog.querySelector(".choose").addEventListener("click", () => take(Number(dialog.dataset.position)));
  dialog.addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "ArrowRight") turn(1);
    else if (event.key.toLowerCase() === "z") dialog.close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

export function openZoom(look, position) {
  showZoomed(look, position);
  $("zoom").showModal();
  $("zoom").querySelector(".choose").focus();
}

function showZoomed(look, position) {
  const { task, state } = look(), dialog = $("zoom"), places = order.places(state);
  dialog.dataset.position = position;
  dialog.querySelector("img").src = task.images[position];
  dialog.querySelector("img").alt = placeText(position, places);
  dialog.querySelector(".place").textContent = places[position] || "";
  dialog.querySelector(".choose").hidden = places[position] > 0;
  dialog.setAttribute("aria-label", text("zoomed", { n: position + 1, count: places.length }));
}

// ---- skipping. `skip(reason)` is called with what was chosen.

export function enableSkip(skip) {
  const dialog = $("skipping"), form = dialog.querySelector("form"), more = form.querySelector(".more");
  const problem = form.querySelector(".problem");
  $("skip").addEventListener("click", () => {
    form.reset();
    more.hidden = problem.hidden = true;
    dialog.showModal();
  });
  form.addEventListener("change", () => {
    more.hidden = form.reason.value !== "other";
    problem.hidden = true;
    if (!more.hidden) form.text.focus();
  });
  form.addEventListener("submit", event => {
    event.preventDefault();
    const words = form.text.value.trim();
    if (!form.reason.value || (form.reason.value === "other" && !words)) {
      problem.textContent = text("choose_reason");
      problem.hidden = false;
      return;
    }
    dialog.close();
    skip(form.reason.value === "other" ? `other: ${words}` : form.reason.value);
  });
}

// ---- the last answers. `open(task)` is called with the one that is to be changed.

export function showRecent(tasks, open) {
  const dialog = $("recent"), lead = dialog.querySelector("p");
  lead.textContent = tasks.length ? lead.dataset.some : lead.dataset.none;
  dialog.querySelector("ul").replaceChildren(...tasks.map(task => recentItem(task, () => {
    dialog.close();
    open(task);
  })));
  dialog.showModal();
}

// The words of a reason in the page's language; those of "something else" are the annotator's own.
function reasonText(reason) {
  const [radio] = [...document.querySelectorAll("#skipping [type=radio]")].filter(other => other.value === reason);
  return radio ? radio.parentElement.textContent.trim() : reason.replace(/^other: /, "");
}

function recentItem(task, open) {
  const item = document.createElement("li"), button = document.createElement("button");
  const words = document.createElement("span"), strip = document.createElement("span");
  button.type = "button";
  button.addEventListener("click", open);
  button.setAttribute("aria-label", text("open_recent", { prompt: task.prompt }));
  words.textContent = task.prompt;
  strip.className = "strip";
  if (task.answer.ranks) {
    strip.append(...order.fromPlaces(task.answer.ranks).order.map(position => {
      const image = document.createElement("img");
      image.src = task.images[position];
      image.alt = "";
      return image;
    }));
  } else {
    strip.textContent = text("skipped", { reason: reasonText(task.answer.skip) });
  }
  button.append(words, strip);
  item.append(button);
  return item;
}

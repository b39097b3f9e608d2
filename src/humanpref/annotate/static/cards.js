// The pictures and the bar that shows their order: drawing them from the state, and dragging.

import * as order from "./order.js";

export const $ = id => document.getElementById(id);
const app = $("app");
const texts = JSON.parse(app.dataset.texts);
export const ties = Boolean(app.dataset.ties);
const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

// A text of the page's language, with its gaps filled in.
export function text(key, values = {}) {
  return texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// Tell those who listen.
export function say(words) {
  $("live").textContent = words;
}

// The position of the picture (or its place in the bar) that something belongs to, null where it is none.
export function positionOf(element) {
  const item = element?.closest?.("li[data-position]");
  return item ? Number(item.dataset.position) : null;
}

let ahead = { token: null, cards: [] }; // the next group's pictures, loaded and decoded before they are wanted

// Put a group's pictures on the page; those that the server has put there stay.
export function drawCards(task) {
  const pictures = $("pictures");
  const there = [...pictures.querySelectorAll("img")].map(image => image.getAttribute("src"));
  if (task.images.join() !== there.join()) {
    pictures.replaceChildren(...(ahead.token === task.token ? ahead.cards : newCards(task)));
    ahead = { token: null, cards: [] };
  }
  pictures.dataset.count = task.images.length;
}

// Load a group's pictures for later.
export function prepareCards(task) {
  if (ahead.token === task.token) return;
  ahead = { token: task.token, cards: newCards(task) };
  for (const card of ahead.cards) card.querySelector("img").decode().catch(() => {}); // told when its turn comes
}

function newCards(task) {
  return task.images.map(newCard);
}

function newCard(source, position) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  card.dataset.position = position;
  card.querySelector("img").decoding = "sync"; // all pictures of a group in one frame
  card.querySelector("img").src = source;
  card.querySelector("kbd").textContent = (position + 1) % 10;
  return card;
}

// Show a state: badges and names of the pictures, the bar, the hint.
export function paint(state, unsafe, task) {
  const places = order.places(state);
  for (const card of $("pictures").children) {
    const position = Number(card.dataset.position);
    paintCard(card, position, places, unsafe.has(position));
  }
  paintBar(state, places, task);
  $("hint").textContent = text(
    order.isComplete(state) ? "hint_complete" : state.order.length ? "hint_next" : "hint_first",
  );
}

export function placeText(position, places) {
  const place = places[position], n = position + 1, count = places.length;
  if (!place) return text("no_place", { n });
  return text(places.filter(p => p === place).length > 1 ? "place_tied" : "place", { n, place, count });
}

function paintCard(card, position, places, isUnsafe) {
  const pick = card.querySelector(".pick"), n = position + 1;
  card.classList.toggle("placed-card", places[position] > 0);
  card.classList.toggle("is-unsafe", isUnsafe);
  card.querySelector(".place").textContent = places[position] || "";
  card.querySelector(".others").textContent = "";
  pick.setAttribute("aria-label", placeText(position, places));
  pick.setAttribute("aria-pressed", String(places[position] > 0));
  card.querySelector(".zoom").setAttribute("aria-label", text("zoom_label", { n }));
  card.querySelector(".unsafe").setAttribute("aria-label", text("unsafe_label", { n }));
  card.querySelector(".unsafe").setAttribute("aria-pressed", String(isUnsafe));
}

function paintBar(state, places, task) {
  const bar = $("order"), focused = bar.contains(document.activeElement) ? document.activeElement : null;
  const which = focused && { position: focused.closest("li").dataset.position, kind: focused.className };
  $("slots").replaceChildren(...places.map((_, index) => slot(index + 1)));
  bar.replaceChildren(...state.order.map((position, index) => thumb(state, places, task, position, index)));
  bar.dataset.count = $("slots").dataset.count = state.count;
  if (which) bar.querySelector(`[data-position="${which.position}"] .${which.kind.split(" ")[0]}`)?.focus();
}

function slot(place) {
  const item = document.createElement("li");
  item.textContent = place;
  return item;
}

function thumb(state, places, task, position, index) {
  const item = document.createElement("li"), button = document.createElement("button");
  const image = document.createElement("img"), badge = document.createElement("span");
  item.className = "placed";
  item.dataset.position = position;
  button.type = "button";
  button.className = "thumb";
  button.setAttribute("aria-label", text("slot", { place: places[position], n: position + 1 }));
  image.src = task.images[position];
  image.alt = "";
  image.draggable = false;
  badge.className = "place";
  badge.textContent = places[position];
  button.append(image, badge);
  item.append(button);
  if (ties && index > 0) item.append(tieButton(state, position));
  return item;
}

function tieButton(state, position) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tie";
  button.textContent = "=";
  button.title = text("tie_label", { n: position + 1 });
  button.setAttribute("aria-label", button.title);
  button.setAttribute("aria-pressed", String(state.tied.includes(position)));
  return button;
}

// Dragging: pictures into the bar, within it, and out of it. `dropped(position, index)` says where one is now: index is
// null for out, undefined for back where it was. Sortable moves elements about; they are put back, and whoever is
// called draws the page from the state again.
export function enableDragging(dropped) {
  const bar = $("order"), pictures = $("pictures");
  const common = {
    animation: calm ? 0 : 140,
    forceFallback: true, // the same with mouse and finger, in every browser
    fallbackOnBody: true,
    fallbackTolerance: 6,
    delay: 200, // a finger that does not rest scrolls the page
    delayOnTouchOnly: true,
    touchStartThreshold: 8,
    preventOnFilter: false,
  };
  window.Sortable.create(pictures, {
    ...common,
    draggable: ".card",
    filter: ".tools, .failed",
    sort: false,
    group: { name: "pictures", pull: "clone", put: ["order"] },
    onStart(event) {
      // one that has a place already leaves it while it is dragged anew
      bar.querySelector(`[data-position="${event.item.dataset.position}"]:not(.card)`)?.remove();
    },
    onEnd(event) {
      if (event.to === bar) event.clone.replaceWith(event.item);
      dropped(Number(event.item.dataset.position), event.to === bar ? event.newIndex : undefined);
    },
  });
  window.Sortable.create(bar, {
    ...common,
    draggable: "li",
    filter: ".tie",
    group: { name: "order", pull: true, put: ["pictures"] },
    onEnd(event) {
      if (event.to === pictures) event.item.remove();
      dropped(Number(event.item.dataset.position), event.to === bar ? event.newIndex : null);
    },
  });
}

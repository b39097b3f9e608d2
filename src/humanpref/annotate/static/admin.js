// Keeps the dashboard up to date: the server sends the part that changes, every ten seconds.

import "./copy.js";

const SECONDS = 10;
const live = document.getElementById("live");

// Whoever is writing a reason or reading a link is not disturbed.
function isInUse() {
  return document.hidden || live.contains(document.activeElement) || live.querySelector("details[open]") !== null;
}

async function refresh() {
  if (isInUse()) return;
  const state = document.getElementById("freshness");
  try {
    const response = await fetch("/admin/live", { signal: AbortSignal.timeout(20000) });
    if (response.status === 401) location.assign("/admin/login");
    if (!response.ok) throw new Error(String(response.status));
    const html = await response.text();
    if (!isInUse()) live.innerHTML = html; // our own server's page, escaped by its templates
    state.hidden = true;
  } catch {
    state.hidden = false;
  }
}

setInterval(refresh, SECONDS * 1000);

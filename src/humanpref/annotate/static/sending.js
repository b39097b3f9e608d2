// Talking to the server, and what is kept in the browser until the server has it.

const PREFIX = "humanpref:";
const KEPT_DAYS = 30;
const csrf = document.querySelector("meta[name=csrf]").content;

// Ask once -> { status, data, retryAfter }. Throws where the server cannot be reached.
export async function ask(path, body) {
  const options = { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(20000) };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.headers["X-CSRF-Token"] = csrf;
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const data = await response.json().catch(() => ({}));
  return { status: response.status, data, retryAfter: Number(response.headers.get("Retry-After")) };
}

// Send until the server has decided. `trouble(kind, seconds)` says that it waits, `again()` that it tries once more.
export async function sendUntilKept(path, body, trouble, again) {
  for (let attempt = 0; ; attempt++) {
    let kind = "offline", seconds = Math.min(15, 2 ** attempt);
    try {
      const reply = await ask(path, body);
      if (reply.status < 500 && reply.status !== 429) return reply;
      kind = "busy";
      seconds = Math.max(seconds, reply.retryAfter || 0);
    } catch {
      // no answer: the same again, which the server takes for the same answer
    }
    for (; seconds > 0; seconds--) {
      trouble(kind, seconds);
      if (await secondOrOnline()) break;
    }
    again();
  }
}

// Wait a second -> whether the browser came back online meanwhile.
function secondOrOnline() {
  return new Promise(resolve => {
    const online = () => done(true);
    const timer = setTimeout(() => done(false), 1000);
    function done(value) {
      clearTimeout(timer);
      window.removeEventListener("online", online);
      resolve(value);
    }
    window.addEventListener("online", online);
  });
}

// Drafts: an order that is not submitted yet, by the token of its group. Without storage (private windows) there are
// none, and everything else works.
export function keepDraft(token, draft) {
  try {
    localStorage.setItem(PREFIX + token, JSON.stringify({ ...draft, at: Date.now() }));
  } catch {
    return;
  }
}

export function draftOf(token) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + token));
  } catch {
    return null;
  }
}

export function dropDraft(token) {
  try {
    localStorage.removeItem(PREFIX + token);
  } catch {
    return;
  }
}

export function dropOldDrafts() {
  try {
    for (const key of Object.keys(localStorage).filter(name => name.startsWith(PREFIX))) {
      const kept = JSON.parse(localStorage.getItem(key));
      if (!(Date.now() - kept.at < KEPT_DAYS * 24 * 3600e3)) localStorage.removeItem(key);
    }
  } catch {
    return;
  }
}

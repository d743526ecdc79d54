// The chat board, live. The server's page works without this; here it follows, pages upwards, keeps drafts
// and sends again what could not be sent.

import { getJson, postJson, sessionName, userName } from "./http.js";
import { carry, onConnection, subscribe } from "./events.js";
import { showTime } from "./times.js";

const board = document.getElementById("board");
const list = document.getElementById("messages");
const empty = document.getElementById("empty");
const older = document.getElementById("older");
const newest = document.getElementById("newest");
const form = document.getElementById("compose");
const text = document.getElementById("text");
const template = document.getElementById("entry");

// Per user: who logs in next in this tab neither sees nor sends what another one left.
const DRAFT = `chat-draft-${userName}`;
const OUTBOX = `chat-outbox-${userName}`;
const MAX_WAITING = 20;
const AT_BOTTOM_PX = 80;
const MAX_SHOWN = 300;

const waiting = new Map(); // client id -> { id, text, element, acknowledged }
let last = list.lastElementChild?.dataset.cursor ?? "";
let first = list.firstElementChild?.dataset.cursor ?? "";
let fetching = null;
let paging = false;
let followsNewest = true; // the reader is at the bottom, and stays there whatever changes its size

function isAtBottom() {
  return board.scrollHeight - board.scrollTop - board.clientHeight < AT_BOTTOM_PX;
}

function toBottom() {
  board.scrollTop = board.scrollHeight;
  newest.hidden = true;
}

function element(message) {
  const item = template.content.firstElementChild.cloneNode(true);
  item.classList.toggle("own", message.author === userName);
  item.querySelector(".author").textContent = message.author;
  item.querySelector("p").textContent = message.text;
  if (message.cursor) {
    item.dataset.cursor = message.cursor;
    showTime(item.querySelector("time"), new Date(message.sent * 1000));
  } else {
    item.querySelector("time").textContent = "sending…";
  }
  return item;
}

// A page that stays open for days shows what its reader would page up to only when he does.
function forgetOldest() {
  while (list.children.length > MAX_SHOWN) {
    list.firstElementChild.remove();
    first = list.firstElementChild.dataset.cursor ?? first;
    older.hidden = false;
  }
}

// Messages of the store come in its order, before those of ours that still wait.
function append(messages) {
  const stick = isAtBottom();
  let added = 0;
  for (const message of messages) {
    if (message.cursor > last) {
      if (message.author === userName && waiting.has(message.id)) {
        // Ours, which may be here before the answer to its posting.
        waiting.get(message.id).element.remove();
        waiting.delete(message.id);
        remember();
      }
      list.insertBefore(element(message), list.querySelector(".waiting"));
      last = message.cursor;
      first ||= message.cursor;
      added += 1;
    }
  }
  empty.hidden = list.children.length > 0;
  if (stick) {
    forgetOldest();
    toBottom();
  } else if (added) {
    newest.hidden = false;
  }
}

// Everything behind our last message, page by page: closes every gap.
function catchUp() {
  fetching ??= (async () => {
    try {
      let more = true;
      while (more) {
        const page = await getJson(`/chat/messages${last ? `?after=${last}` : ""}`);
        append(page.messages);
        more = page.more && last !== "" && page.messages.length > 0;
      }
    } catch {
      // The stream comes back, and with it the next occasion.
    } finally {
      fetching = null;
    }
  })();
  return fetching;
}

async function pageUp() {
  if (paging || older.hidden || !first) {
    return;
  }
  paging = true;
  try {
    const page = await getJson(`/chat/messages?before=${first}`);
    const height = board.scrollHeight;
    list.prepend(...page.messages.map(element));
    first = page.messages[0]?.cursor ?? first;
    older.hidden = !page.more;
    board.scrollTop += board.scrollHeight - height;
  } catch {
    // Scrolling again tries again.
  } finally {
    paging = false;
  }
}

function unsent() {
  return [...waiting.values()].filter((message) => !message.acknowledged).map(({ id, text }) => ({ id, text }));
}

function pause(ms) {
  return new Promise((resolve) => { setTimeout(resolve, ms); });
}

function remember() {
  sessionStorage.setItem(OUTBOX, JSON.stringify(unsent()));
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The id stays the same through all attempts: the store shows the message once.
async function deliver(id) {
  const message = waiting.get(id);
  for (let pauseMs = 500; ; pauseMs = Math.min(pauseMs * 2, 8000)) {
    try {
      const posted = await postJson("/chat/messages", { id, text: message.text });
      message.acknowledged = true;
      remember();
      while (posted.cursor > last) {
        await catchUp();
        if (posted.cursor > last) {
          await pause(1000);
        }
      }
      // Still there if an earlier attempt had been heard of by the store, but not by us.
      if (waiting.delete(id)) {
        message.element.remove();
      }
      return;
    } catch (error) {
      if (!error.retryable) {
        message.element.classList.add("failed");
        message.element.querySelector("time").textContent = error.message;
        waiting.delete(id);
        remember();
        return;
      }
      await pause(pauseMs);
    }
  }
}

function post(body, id = newId()) {
  const item = element({ author: userName, text: body });
  item.classList.add("waiting");
  list.append(item);
  empty.hidden = true;
  waiting.set(id, { id, text: body, element: item });
  remember();
  toBottom();
  deliver(id);
}

function fit() {
  text.rows = 1;
  while (text.rows < 6 && text.scrollHeight > text.clientHeight) {
    text.rows += 1;
  }
}

function keepDraft() {
  sessionStorage.setItem(DRAFT, text.value);
  fit();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const body = text.value.trim();
  if (!body || waiting.size >= MAX_WAITING) {
    return;
  }
  if (board.dataset.past !== undefined) {
    // The page shows older messages: writing leads back to the newest.
    sessionStorage.setItem(DRAFT, text.value);
    location.href = "/chat";
    return;
  }
  text.value = "";
  keepDraft();
  post(body);
  text.focus();
});

text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
text.addEventListener("input", keepDraft);
newest.addEventListener("click", toBottom);
older.addEventListener("click", (event) => {
  event.preventDefault();
  pageUp();
});
board.addEventListener("scroll", () => {
  if (board.scrollTop < 60) {
    pageUp();
  }
  followsNewest = isAtBottom();
  if (followsNewest) {
    newest.hidden = true;
  }
});
new ResizeObserver(() => {
  if (followsNewest) {
    toBottom();
  }
}).observe(board);

// What this page remembers comes along when the frontend has to be left: another one has another address.
// It names the session, which nobody else knows: else any link could post in its reader's name.
function takeAlong() {
  const state = { session: sessionName, draft: text.value, outbox: unsent() };
  return state.draft || state.outbox.length ? `state=${encodeURIComponent(JSON.stringify(state))}` : "";
}

function recall() {
  let state = {
    draft: sessionStorage.getItem(DRAFT) ?? "",
    outbox: JSON.parse(sessionStorage.getItem(OUTBOX) ?? "[]"),
  };
  if (location.hash.startsWith("#state=")) {
    try {
      const brought = JSON.parse(decodeURIComponent(location.hash.slice("#state=".length)));
      if (brought?.session === sessionName) {
        state = brought;
      }
    } catch {
      // Somebody cut the address: what is stored here has to do.
    }
    history.replaceState(null, "", location.pathname + location.search);
  }
  text.value ||= String(state.draft ?? "");
  for (const { id, text: body } of (state.outbox ?? []).slice(0, MAX_WAITING)) {
    post(String(body), String(id));
  }
  keepDraft();
}

toBottom();
recall();

if (board.dataset.past === undefined) {
  subscribe("chat", {
    cursor: last,
    onEvent: ({ after, messages }) => {
      // Contiguous with what is shown, or else something is missing in between.
      if (after <= last) {
        append(messages);
      } else {
        catchUp();
      }
    },
    onPlace: (cursor) => {
      if (cursor > last) {
        catchUp();
      }
    },
  });
  carry(takeAlong);
  onConnection((connected) => {
    if (connected) {
      catchUp();
    }
  });
}

// Lists that follow the mailbox, and the mark of a message that was opened. The pages work without this.

import { subscribe } from "./events.js";
import { request } from "./http.js";
import { localizeTimes } from "./times.js";

const list = document.getElementById("list");
const message = document.getElementById("message");

// Opening a message shows it; that it was read is told by a request of its own, as GET changes nothing.
async function markRead() {
  const url = message.dataset.unread;
  delete message.dataset.unread;
  try {
    await request(url, { method: "POST", body: new URLSearchParams({ as: "read" }) });
    const button = document.getElementById("mark");
    button.form.elements.as.value = "unread";
    button.textContent = "Mark as unread";
  } catch {
    // It stays unread: opening it again tries again.
  }
}

if (message?.dataset.unread) {
  markRead();
}

let refreshing = false;
let again = false;

// The page as the server makes it, with what was ticked and focused here kept.
async function refresh() {
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = true;
  try {
    do {
      again = false;
      // An open message may just be on its way to be deleted: the inbox tells as well what is unread.
      const source = list ? location.href : "/mail";
      const answer = await request(source, { headers: { accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      replace(fresh);
    } while (again);
  } catch {
    // The next event, or the stream's return, tries again.
  } finally {
    refreshing = false;
  }
}

function replace(fresh) {
  const boxes = document.querySelector(".boxes");
  const newBoxes = fresh.querySelector(".boxes");
  for (const link of newBoxes?.querySelectorAll("a") ?? []) {
    const here = boxes?.querySelector(`a[href="${link.getAttribute("href")}"][aria-current]`);
    link.toggleAttribute("aria-current", Boolean(here));
    if (here) {
      link.setAttribute("aria-current", "page");
    }
  }
  if (boxes && newBoxes && boxes.innerHTML !== newBoxes.innerHTML) {
    boxes.innerHTML = newBoxes.innerHTML;
  }
  const newList = fresh.getElementById("list");
  if (!list || !newList) {
    return;
  }
  const ticked = new Set([...list.querySelectorAll("input:checked")].map((box) => box.value));
  const focused = document.activeElement?.closest?.(".letter")?.dataset.stamp;
  const focusedTag = document.activeElement?.tagName.toLowerCase();
  localizeTimes(newList);
  list.replaceChildren(...newList.childNodes);
  for (const box of list.querySelectorAll('input[name="stamp"]')) {
    box.checked = ticked.has(box.value);
  }
  if (focused) {
    list.querySelector(`[data-stamp="${focused}"] ${focusedTag}`)?.focus();
  }
}

subscribe("mail", { onEvent: refresh });

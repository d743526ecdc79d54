// Sending without leaving the page: progress of attachments, and problems shown beside what was written.

import { csrf } from "./http.js";

const form = document.getElementById("compose");
const problem = document.getElementById("problem");
const progress = document.getElementById("progress");
const send = document.getElementById("send");
const files = document.getElementById("files");

function show(text) {
  problem.textContent = text;
  problem.hidden = !text;
  if (text) {
    problem.scrollIntoView({ block: "nearest" });
  }
}

function chosenBytes() {
  return [...files.files].reduce((sum, file) => sum + file.size, 0);
}

function isTooLarge() {
  // Base64 adds a third, and the form its own part.
  return chosenBytes() > Number(form.dataset.maxBytes) * 0.98;
}

// XMLHttpRequest, because fetch does not tell how much of a body has been sent.
function post(data) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.setRequestHeader("accept", "application/json");
    request.setRequestHeader("x-csrf-token", csrf);
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) {
        progress.value = event.loaded / event.total;
      }
    };
    request.onloadend = () => resolve(request);
    request.send(data);
  });
}

function answer(request) {
  try {
    return JSON.parse(request.responseText);
  } catch {
    return {};
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (isTooLarge()) {
    show("The attachments are too large.");
    return;
  }
  show("");
  send.disabled = true;
  send.setAttribute("aria-busy", "true");
  progress.hidden = files.files.length === 0;
  const request = await post(new FormData(form));
  const { location: next, error } = answer(request);
  if (request.status === 200 && next) {
    location.assign(next);
    return;
  }
  send.disabled = false;
  send.removeAttribute("aria-busy");
  progress.hidden = true;
  // The form's token stays: sending again cannot send twice.
  show(error ?? "The server cannot be reached. Please send again: it will be sent only once.");
});

files.addEventListener("change", () => {
  show(isTooLarge() ? "The attachments are too large." : "");
});

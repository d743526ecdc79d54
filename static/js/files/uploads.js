// The queue of uploads: a few at a time, each a PUT whose body is the File itself, so that the browser
// reads it from the disk as it is sent. Where the frontend does not answer any more, the next ones of the
// same host are tried: the session holds there too.

import { csrf, getJson, RequestFailed } from "../http.js";
import { hold } from "../events.js";
import { choose } from "./dialogs.js";

const AT_A_TIME = 2;
// Pauses before a failed upload is tried again by itself, in seconds.
const RETRIES_S = [0.5, 1, 3, 10];
// Rows in the panel; more files than that wait unseen.
const SHOWN = 100;

const units = ["kB", "MB", "GB", "TB"];

/** As the server writes sizes. */
export function sizeText(bytes) {
  if (bytes < 1000) {
    return `${bytes} B`;
  }
  let size = bytes;
  for (const unit of units) {
    size /= 1000;
    if (size < 999.5 || unit === "TB") {
      return `${size.toFixed(size < 9.95 ? 1 : 0)} ${unit}`;
    }
  }
  return "";
}

/** Names one upload, however often and wherever it is sent. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

class Upload {
  constructor(file, folder, name) {
    this.id = newId();
    this.file = file;
    this.folder = folder;
    this.name = name;
    this.state = "waiting"; // sending, done, failed, cancelled
    this.sent = 0;
    this.text = "";
    this.request = null;
    this.tries = 0;
    this.place = 0;
    this.row = null;
  }
}

export class Uploads extends EventTarget {
  constructor(root) {
    super();
    this.limit = Number(root.dataset.limit);
    // Where uploads are sent, by turns while nobody answers: here ("") first.
    this.places = ["", ...root.dataset.elsewhereOrigins.split(" ").filter(Boolean)];
    this.place = 0;
    this.panel = root.querySelector("[data-uploads]");
    this.title = root.querySelector("[data-uploads-title]");
    this.list = root.querySelector("[data-uploads-list]");
    this.template = document.querySelector("[data-upload-template]").content;
    this.queue = [];
    this.sameForAll = ""; // what to do with every taken name, once the user has said so
    this.asking = Promise.resolve(); // the question before the next one
    root.querySelector("[data-uploads-close]").addEventListener("click", () => this.close());
    hold(() => this.running);
    addEventListener("beforeunload", (event) => {
      if (this.running) {
        event.preventDefault();
      }
    });
  }

  get running() {
    return this.queue.some((upload) => upload.state === "waiting" || upload.state === "sending");
  }

  /** Queue a file for a folder (by id). */
  add(file, folder, name = file.name) {
    const upload = new Upload(file, folder, name);
    this.queue.push(upload);
    if (file.size > this.limit) {
      this.fail(upload, `Larger than ${sizeText(this.limit)}`);
    }
    this.draw();
    this.next();
  }

  /** What is left is cancelled, and the panel goes. */
  async close() {
    if (this.running) {
      const { value } = await choose({
        title: "Cancel the uploads?",
        text: "What has been uploaded completely stays.",
        choices: [["", "Go on", "secondary"], ["stop", "Cancel uploads", "danger"]],
      });
      if (value !== "stop") {
        return;
      }
    }
    for (const upload of this.queue) {
      this.cancel(upload);
    }
    this.queue = [];
    this.sameForAll = "";
    this.draw();
  }

  next() {
    const sending = this.queue.filter((upload) => upload.state === "sending").length;
    const waiting = this.queue.filter((upload) => upload.state === "waiting");
    for (const upload of waiting.slice(0, Math.max(0, AT_A_TIME - sending))) {
      upload.state = "sending";
      this.run(upload);
    }
    if (!this.running) {
      this.sameForAll = "";
    }
  }

  async run(upload) {
    upload.place = this.place;
    try {
      const agreed = await this.agree(upload);
      if (agreed) {
        await this.send(upload, agreed);
      }
      upload.state = "done";
      upload.text = "Done";
      this.dispatchEvent(new Event("stored"));
    } catch (error) {
      if (upload.state === "cancelled") {
        return;
      }
      const pause = RETRIES_S[upload.tries];
      if (error.retryable && pause !== undefined) {
        upload.tries += 1;
        this.leave(upload.place);
        upload.text = "Trying again…";
        this.drawRow(upload);
        setTimeout(() => this.resume(upload), pause * 1000);
        return;
      }
      this.fail(upload, error.message);
    } finally {
      this.draw();
      this.next();
    }
  }

  /** Where an upload has failed the next one is not sent; another may have moved on already. */
  leave(place) {
    if (place === this.place) {
      this.place = (this.place + 1) % this.places.length;
    }
  }

  resume(upload) {
    if (upload.state === "sending") {
      this.run(upload);
    }
  }

  retry(upload) {
    upload.state = "waiting";
    upload.tries = 0;
    upload.sent = 0;
    this.draw();
    this.next();
  }

  cancel(upload) {
    if (upload.state === "waiting" || upload.state === "sending") {
      upload.state = "cancelled";
      upload.request?.abort();
    }
    this.queue = this.queue.filter((each) => each !== upload);
    upload.row?.remove();
  }

  fail(upload, text) {
    upload.state = "failed";
    upload.text = text;
  }

  /**
   * What to ask of the server: nothing special, or what the user wants where the name is taken. Null when
   * an earlier attempt has stored the file and only its answer was lost.
   */
  async agree(upload) {
    const query = new URLSearchParams({ folder: upload.folder, name: upload.name, upload: upload.id });
    const url = `${this.places[upload.place]}/file/entry?${query}`;
    const { entry, is_stored: isStored } = await getJson(url, { credentials: "include" });
    if (isStored) {
      return null;
    }
    if (!entry) {
      return {};
    }
    // One question after the other: the answer to the first may be meant for all.
    const asked = this.asking.then(() => this.ask(upload, entry));
    this.asking = asked.catch(() => {});
    const answer = await asked;
    if (answer === "skip") {
      this.cancel(upload);
      throw new RequestFailed(409, "Skipped");
    }
    return answer === "both" ? { keep: "both" } : { replace: entry.version };
  }

  /** What to do as the name is taken: "both", "replace" or "skip". */
  async ask(upload, entry) {
    if (upload.state === "cancelled") {
      return "skip";
    }
    if (this.sameForAll && !(this.sameForAll === "replace" && entry.kind === "folder")) {
      return this.sameForAll;
    }
    // The last one is what Enter takes: the one that overwrites nothing.
    const choices = [["skip", "Skip", "secondary"], ["both", "Keep both", ""]];
    if (entry.kind === "file") {
      choices.splice(1, 0, ["replace", "Replace", "secondary"]);
    }
    const { value, forAll } = await choose({
      title: "The name is taken",
      text: `“${upload.name}” already exists here.`,
      choices,
      forAll: this.queue.filter((each) => each.state === "waiting" || each.state === "sending").length > 1,
    });
    const answer = value || "skip";
    if (forAll) {
      this.sameForAll = answer;
    }
    return answer;
  }

  send(upload, agreed) {
    const query = new URLSearchParams({
      folder: upload.folder, name: upload.name, size: upload.file.size, upload: upload.id, ...agreed,
    });
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      upload.request = request;
      request.open("PUT", `${this.places[upload.place]}/file/content?${query}`);
      request.withCredentials = true;
      request.setRequestHeader("x-csrf-token", csrf);
      request.setRequestHeader("accept", "application/json");
      request.setRequestHeader("content-type", "application/octet-stream");
      request.upload.onprogress = (event) => {
        upload.sent = event.loaded;
        upload.text = `${sizeText(event.loaded)} of ${sizeText(upload.file.size)}`;
        this.drawRow(upload);
        this.drawTitle();
      };
      request.onload = () => {
        upload.sent = upload.file.size;
        if (request.status < 300) {
          resolve();
        } else {
          reject(new RequestFailed(request.status, problemOf(request)));
        }
      };
      request.onerror = () => reject(new RequestFailed(0, "The connection was lost."));
      request.onabort = () => reject(new RequestFailed(499, "Cancelled"));
      request.send(upload.file);
    });
  }

  draw() {
    this.panel.hidden = !this.queue.length;
    // What is not done yet comes first; of what is done, the latest.
    const order = { sending: 0, failed: 1, waiting: 2, done: 3 };
    const shown = [...this.queue].sort((a, b) => order[a.state] - order[b.state]).slice(0, SHOWN);
    for (const upload of shown) {
      this.drawRow(upload);
    }
    this.list.replaceChildren(...shown.map((upload) => upload.row));
    this.drawTitle();
  }

  drawTitle() {
    const count = (state) => this.queue.filter((upload) => upload.state === state).length;
    const all = this.queue.length;
    const done = count("done");
    const failed = count("failed");
    const text = this.running
      ? `Uploading: ${done} of ${all} done`
      : failed
        ? `${done} uploaded, ${failed} failed`
        : `${done} ${done === 1 ? "file" : "files"} uploaded`;
    if (this.title.textContent !== text) {
      this.title.textContent = text;
    }
  }

  drawRow(upload) {
    const row = (upload.row ??= this.row(upload));
    row.dataset.state = upload.state;
    row.querySelector(".upload-state").textContent = upload.text || (upload.state === "waiting" ? "Waiting" : "");
    const bar = row.querySelector("progress");
    bar.max = upload.file.size || 1;
    bar.value = upload.state === "done" ? bar.max : upload.sent;
    row.querySelector("[data-retry]").hidden = upload.state !== "failed";
    row.querySelector("[data-cancel]").hidden = upload.state === "done";
  }

  row(upload) {
    const row = this.template.firstElementChild.cloneNode(true);
    row.querySelector("bdi").textContent = upload.name;
    row.querySelector("progress").setAttribute("aria-label", upload.name);
    row.querySelector("[data-cancel]").setAttribute("aria-label", `Cancel ${upload.name}`);
    row.querySelector("[data-cancel]").addEventListener("click", () => {
      this.cancel(upload);
      this.draw();
      this.next();
    });
    row.querySelector("[data-retry]").addEventListener("click", () => this.retry(upload));
    return row;
  }
}

function problemOf(request) {
  if (request.status === 401) {
    return "You are no longer logged in.";
  }
  try {
    return JSON.parse(request.responseText).error;
  } catch {
    return `The server answered ${request.status}.`;
  }
}

// Questions to the user, in <dialog> elements that the page brings along.

import { getJson, postJson } from "../http.js";

/** Show `dialog` and resolve to its return value ("" when it was dismissed). */
function shown(dialog, focus) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    dialog.showModal();
    focus?.();
  });
}

function find(name) {
  return document.querySelector(`dialog[data-dialog="${name}"]`);
}

function showProblem(dialog, text) {
  const problem = dialog.querySelector("[data-dialog-problem]");
  problem.textContent = text;
  problem.hidden = !text;
}

function button(value, label, kind = "") {
  const made = document.createElement("button");
  made.type = "submit";
  made.value = value;
  made.textContent = label;
  made.className = kind;
  return made;
}

// One question at a time: another one waits for the first to be answered.
let last = Promise.resolve();

function inTurn(question) {
  const answer = last.then(question);
  last = answer.catch(() => {});
  return answer;
}

/**
 * Ask to choose between `choices` ([value, label, class]). Resolves to { value, forAll }; value "" means
 * cancelled. The last choice has the focus: Enter takes it.
 */
export function choose({ title, text, choices, forAll = false }) {
  return inTurn(async () => {
    const dialog = find("ask");
    prepare(dialog, title, text);
    const check = dialog.querySelector("[data-for-all]");
    check.hidden = !forAll;
    check.querySelector("input").checked = false;
    const row = dialog.querySelector("[data-choices]");
    row.replaceChildren(...choices.map(([value, label, kind]) => button(value, label, kind)));
    const value = await shown(dialog, () => row.lastElementChild.focus());
    return { value, forAll: forAll && check.querySelector("input").checked };
  });
}

/**
 * Ask for a name; `act(name)` does what it is for, and the dialog stays open with the error's text when
 * that throws. Resolves to act's result, or null when cancelled.
 */
export function askName({ title, label, value = "", action, act }) {
  return inTurn(async () => {
    const dialog = find("ask");
    prepare(dialog, title, "");
    dialog.querySelector("[data-for-all]").hidden = true;
    const field = dialog.querySelector("[data-field]");
    const input = dialog.querySelector("[data-input]");
    field.hidden = false;
    dialog.querySelector("[data-label]").textContent = label;
    input.value = value;
    const row = dialog.querySelector("[data-choices]");
    const submit = button("go", action);
    const cancel = button("", "Cancel", "secondary");
    cancel.type = "button";
    cancel.onclick = () => dialog.close();
    row.replaceChildren(cancel, submit);
    let result = null;
    const form = dialog.querySelector("form");
    form.onsubmit = async (event) => {
      event.preventDefault();
      if (submit.disabled) {
        return;
      }
      submit.disabled = true;
      try {
        result = await act(input.value);
        dialog.close();
      } catch (error) {
        showProblem(dialog, error.message);
        input.focus();
      } finally {
        submit.disabled = false;
      }
    };
    await shown(dialog, () => {
      input.focus();
      // The extension mostly stays.
      const dot = value.lastIndexOf(".");
      input.setSelectionRange(0, dot > 0 ? dot : value.length);
    });
    form.onsubmit = null;
    return result;
  });
}

function prepare(dialog, title, text) {
  dialog.querySelector("[data-title]").textContent = title;
  const paragraph = dialog.querySelector("[data-text]");
  paragraph.textContent = text;
  paragraph.hidden = !text;
  dialog.querySelector("[data-field]").hidden = true;
  showProblem(dialog, "");
}

/** Let the user walk through the folders. Resolves to { id, name } of the chosen one, or null. */
export function pickFolder({ title, start, without }) {
  return inTurn(() => new Picker(title, without).run(start));
}

class Picker {
  constructor(title, without) {
    this.dialog = find("picker");
    this.dialog.querySelector("[data-title]").textContent = title;
    this.without = without;
    this.crumbs = this.dialog.querySelector("[data-picker-crumbs]");
    this.list = this.dialog.querySelector("[data-picker-folders]");
    this.chooseButton = this.dialog.querySelector("[data-picker-choose]");
  }

  async run(start) {
    this.first = start;
    this.chosen = null;
    this.chooseButton.onclick = () => {
      this.chosen = this.at;
      this.dialog.close();
    };
    this.dialog.querySelector("[data-picker-new]").onclick = () => this.newFolder();
    this.show(start);
    await shown(this.dialog);
    return this.chosen;
  }

  /** Folders come first in a listing: reading ends with the first file. */
  async show(folder) {
    showProblem(this.dialog, "");
    try {
      const folders = [];
      let cursor = "";
      let page;
      do {
        page = await getJson(`/file/list?${new URLSearchParams({ folder, cursor, limit: 500 })}`);
        folders.push(...page.entries.filter((entry) => entry.kind === "folder"));
        cursor = page.entries.at(-1)?.kind === "folder" ? page.cursor : "";
      } while (cursor);
      this.at = { id: folder, name: page.crumbs.at(-1).name };
      this.chooseButton.disabled = folder === this.first;
      this.fill(page.crumbs, folders);
    } catch (error) {
      showProblem(this.dialog, error.message);
    }
  }

  fill(crumbs, folders) {
    const path = document.createElement("ol");
    for (const { id, name } of crumbs) {
      path.append(this.item(name, () => this.show(id), id === this.at.id));
    }
    this.crumbs.replaceChildren(path);
    this.list.replaceChildren(
      ...folders.map((entry) => this.item(entry.name, () => this.show(entry.id), this.without.has(entry.id), true)),
    );
    if (!folders.length) {
      const none = document.createElement("li");
      none.className = "empty muted";
      none.textContent = "No folders in here.";
      this.list.append(none);
    }
  }

  item(name, action, disabled, withIcon = false) {
    const made = document.createElement("li");
    const open = document.createElement("button");
    open.type = "button";
    open.disabled = disabled;
    open.onclick = action;
    if (withIcon) {
      open.append(icon("folder"));
    }
    const text = document.createElement("bdi");
    text.textContent = name;
    open.append(text);
    made.append(open);
    return made;
  }

  async newFolder() {
    // Within this dialog: a second one on top would hide where the folder goes.
    const row = document.createElement("li");
    const input = document.createElement("input");
    input.setAttribute("aria-label", "Name of the new folder");
    input.maxLength = 255;
    input.onkeydown = async (event) => {
      if (event.key === "Escape") {
        event.preventDefault();
        row.remove();
      } else if (event.key === "Enter") {
        event.preventDefault();
        try {
          const { entry } = await postJson("/file/folder", { folder: this.at.id, name: input.value });
          await this.show(entry.id);
        } catch (error) {
          showProblem(this.dialog, error.message);
        }
      }
    };
    row.append(input);
    this.list.prepend(row);
    input.focus();
  }
}

/** A symbol of the page's sprite. */
export function icon(name, kind = "") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", `icon ${kind}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

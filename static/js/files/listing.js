// The listing of a folder: rows, pages fetched as one scrolls, what is chosen, the keyboard.

import { getJson } from "../http.js";
import { showTime } from "../times.js";

// Beyond so many rows a change elsewhere does not fetch everything again by itself.
const REFRESHED_ROWS = 2000;
const PAGE = 200;

export class Listing extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.folder = root.dataset.folder;
    this.cursor = root.dataset.cursor;
    this.table = root.querySelector("[data-listing]");
    this.body = root.querySelector("[data-rows]");
    this.empty = root.querySelector("[data-empty]");
    this.more = root.querySelector("[data-more]");
    this.chooseAll = root.querySelector("[data-choose-all]");
    this.template = document.querySelector("[data-row-template]").content;
    this.lastTicked = null;
    this.loading = null;
    this.generation = 0; // counts folders asked for and shown: an answer for an earlier one is thrown away
    this.refreshes = 0; // counts refreshes: only the latest one's answer is shown
    this.listen();
    this.watchScrolling();
    this.changed();
  }

  get rows() {
    return [...this.body.children];
  }

  get chosen() {
    return this.rows.filter((row) => tick(row).checked);
  }

  /** Names that are shown (not necessarily all of the folder). */
  find(name) {
    return this.rows.find((row) => row.dataset.name === name);
  }

  /** Show another folder; returns the first page as the server gave it. */
  async open(folder) {
    const generation = ++this.generation;
    const page = await this.fetch(folder, "");
    if (generation !== this.generation) {
      return null;
    }
    this.generation += 1; // A refresh that began meanwhile has asked for the folder before.
    this.folder = folder;
    this.cursor = page.cursor;
    this.body.replaceChildren(...page.entries.map((entry) => this.row(entry)));
    this.lastTicked = null;
    this.changed();
    return page;
  }

  /** Fetch again what is shown; rows that did not change stay as they are, chosen or not. */
  async refresh() {
    const generation = this.generation;
    const refresh = ++this.refreshes;
    const wanted = Math.max(this.rows.length, PAGE);
    if (wanted > REFRESHED_ROWS) {
      this.dispatchEvent(new Event("outdated"));
      return;
    }
    const entries = [];
    let cursor = "";
    do {
      const page = await this.fetch(this.folder, cursor);
      entries.push(...page.entries);
      cursor = page.cursor;
    } while (cursor && entries.length < wanted);
    if (refresh !== this.refreshes) {
      return;
    }
    if (generation !== this.generation) {
      await this.refresh(); // What changed may be in the folder that is shown now.
      return;
    }
    const known = new Map(this.rows.map((row) => [`${row.dataset.version}:${row.dataset.name}`, row]));
    const rows = entries.map((entry) => known.get(`${entry.version}:${entry.name}`) ?? this.row(entry));
    const present = this.rows;
    if (rows.length !== present.length || rows.some((row, index) => row !== present[index])) {
      const focused = document.activeElement?.closest?.("tr")?.dataset.name;
      this.body.replaceChildren(...rows);
      if (focused !== undefined && !this.body.contains(document.activeElement)) {
        this.focus(this.find(focused) ?? rows[0]);
      }
    }
    this.cursor = cursor;
    this.changed();
  }

  async loadMore() {
    if (!this.cursor || this.loading) {
      return;
    }
    const generation = this.generation;
    this.loading = this.fetch(this.folder, this.cursor);
    try {
      const page = await this.loading;
      if (generation === this.generation) {
        this.body.append(...page.entries.map((entry) => this.row(entry)));
        this.cursor = page.cursor;
        this.changed();
      }
    } finally {
      this.loading = null;
    }
  }

  clearChoice() {
    for (const row of this.chosen) {
      tick(row).checked = false;
    }
    this.changed();
  }

  focus(row) {
    row?.querySelector(".name a").focus();
  }

  fetch(folder, cursor) {
    return getJson(`/file/list?${new URLSearchParams({ folder, cursor, limit: PAGE })}`);
  }

  row(entry) {
    const row = this.template.firstElementChild.cloneNode(true);
    Object.assign(row.dataset, { name: entry.name, version: entry.version, kind: entry.kind, id: entry.id });
    const box = tick(row);
    box.value = `${entry.version}:${entry.name}`;
    box.setAttribute("aria-label", `Choose ${entry.name}`);
    const link = row.querySelector(".name a");
    link.href = entry.view || entry.url;
    if (entry.view) {
      link.target = "_blank";
      link.rel = "noopener";
    }
    const symbol = link.querySelector("svg");
    symbol.setAttribute("class", `icon kind ${entry.icon}`);
    symbol.querySelector("use").setAttribute("href", `#icon-${entry.icon}`);
    link.querySelector("bdi").textContent = entry.name;
    row.querySelector(".size").textContent = entry.size_text;
    showTime(row.querySelector("time"), new Date(entry.modified));
    for (const act of row.querySelectorAll(".act")) {
      act.setAttribute("aria-label", `${act.title} ${entry.name}`);
    }
    const download = row.querySelector('[data-do="download"]');
    download.href = entry.url;
    download.hidden = entry.kind === "folder";
    return row;
  }

  /** Something about the rows or the choice is different now. */
  changed() {
    const rows = this.rows;
    const chosen = this.chosen;
    for (const row of rows) {
      row.classList.toggle("chosen", tick(row).checked);
    }
    this.table.hidden = !rows.length;
    this.empty.hidden = rows.length > 0;
    this.more.hidden = !this.cursor;
    this.chooseAll.checked = rows.length > 0 && chosen.length === rows.length;
    this.chooseAll.indeterminate = chosen.length > 0 && chosen.length < rows.length;
    this.dispatchEvent(new Event("choice"));
  }

  listen() {
    this.body.addEventListener("click", (event) => {
      const box = event.target.closest('input[type="checkbox"]');
      if (box) {
        this.ticked(box, event.shiftKey);
      }
    });
    this.chooseAll.addEventListener("change", () => {
      for (const row of this.rows) {
        tick(row).checked = this.chooseAll.checked;
      }
      this.changed();
    });
    this.more.querySelector("a").addEventListener("click", (event) => {
      event.preventDefault();
      this.loadMore();
    });
    this.table.addEventListener("keydown", (event) => this.key(event));
  }

  /** With the shift key: everything between the last box that was ticked and this one. */
  ticked(box, withShift) {
    const rows = this.rows;
    const here = rows.indexOf(box.closest("tr"));
    const there = rows.indexOf(this.lastTicked);
    if (withShift && there >= 0) {
      for (const row of rows.slice(Math.min(here, there), Math.max(here, there) + 1)) {
        tick(row).checked = box.checked;
      }
    }
    this.lastTicked = rows[here];
    this.changed();
  }

  key(event) {
    const row = event.target.closest("tbody tr");
    if (event.ctrlKey || event.metaKey) {
      if (event.key === "a") {
        event.preventDefault();
        this.chooseAll.checked = true;
        this.chooseAll.dispatchEvent(new Event("change"));
      }
      return;
    }
    if (event.key === "Escape") {
      this.clearChoice();
    } else if (row && event.key === "ArrowDown") {
      event.preventDefault();
      this.focus(row.nextElementSibling);
    } else if (row && event.key === "ArrowUp") {
      event.preventDefault();
      this.focus(row.previousElementSibling);
    } else if (row && event.key === " " && event.target.tagName === "A") {
      event.preventDefault();
      tick(row).checked = !tick(row).checked;
      this.ticked(tick(row), event.shiftKey);
    } else if (row && (event.key === "F2" || event.key === "Delete")) {
      event.preventDefault();
      const rows = this.chosen.length ? this.chosen : [row];
      const detail = { action: event.key === "F2" ? "rename" : "delete", rows };
      this.dispatchEvent(new CustomEvent("act", { detail }));
    }
  }

  watchScrolling() {
    const observer = new IntersectionObserver(
      (entries) => {
        if (entries.some((entry) => entry.isIntersecting)) {
          this.loadMore().then(
            () => {
              // Observed anew: it may still be in sight, which would not be reported again.
              observer.unobserve(this.more);
              observer.observe(this.more);
            },
            () => {}, // The link "More files" stays, and tries again.
          );
        }
      },
      { rootMargin: "800px" },
    );
    observer.observe(this.more);
  }
}

function tick(row) {
  return row.querySelector('input[type="checkbox"]');
}

// The listing of a folder: rows, pages fetched as one scrolls, what is chosen, the keyboard.

import { getJson } from "../http.js";
import { showTime } from "../times.js";

// Beyond so many rows a change elsewhere does not fetch everything again by itself.
const REFRESHED_ROWS = 2000;
const PAGE = 200;
// About how high a row is, for pages that were never in sight.
const ROW_REM = 2.85;

export class Listing extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.folder = root.dataset.folder;
    this.cursor = root.dataset.cursor;
    this.table = root.querySelector("[data-listing]");
    this.empty = root.querySelector("[data-empty]");
    this.more = root.querySelector("[data-more]");
    this.chooseAll = root.querySelector("[data-choose-all]");
    this.template = document.querySelector("[data-row-template]").content;
    this.lastTicked = null;
    this.turn = Promise.resolve(); // one fetch of rows after the other: they build on each other
    this.generation = 0; // counts folders asked for: an answer for an earlier one is thrown away
    this.listen();
    this.watchScrolling();
    this.changed();
  }

  get rows() {
    return [...this.table.querySelectorAll("tbody > tr")];
  }

  get count() {
    return [...this.table.tBodies].reduce((sum, body) => sum + body.rows.length, 0);
  }

  get chosen() {
    return [...this.table.querySelectorAll("tbody input:checked")].map((box) => box.closest("tr"));
  }

  /** Names that are shown (not necessarily all of the folder). */
  find(name) {
    return this.table.querySelector(`tr[data-name="${CSS.escape(name)}"]`);
  }

  /** Show another folder; returns the first page as the server gave it, null if it is outdated. */
  async open(folder) {
    // What was asked for before is void; what is asked for from now on waits for this folder.
    this.generation += 1;
    const opened = await this.inTurn(async (isCurrent) => {
      const page = await this.fetch(folder, "");
      if (!isCurrent()) {
        return null;
      }
      this.folder = folder;
      this.cursor = page.cursor;
      this.show(page.entries.map((entry) => this.row(entry)));
      this.lastTicked = null;
      this.changed();
      return page;
    });
    return opened ?? null;
  }

  /** Fetch again what is shown; rows that did not change stay as they are, chosen or not. */
  refresh() {
    return this.inTurn(async (isCurrent) => {
      const wanted = Math.max(this.count, PAGE);
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
      if (isCurrent()) {
        this.renew(entries);
        this.cursor = cursor;
        this.changed();
      }
    });
  }

  renew(entries) {
    const present = this.rows;
    const known = new Map(present.map((row) => [`${row.dataset.version}:${row.dataset.name}`, row]));
    const rows = entries.map((entry) => known.get(`${entry.version}:${entry.name}`) ?? this.row(entry));
    if (rows.length === present.length && rows.every((row, index) => row === present[index])) {
      return;
    }
    const focused = document.activeElement?.closest?.("tr")?.dataset.name;
    this.show(rows);
    if (focused !== undefined && !this.table.contains(document.activeElement)) {
      this.focus(this.find(focused) ?? rows[0]);
    }
  }

  loadMore() {
    return this.inTurn(async (isCurrent) => {
      if (!this.cursor) {
        return;
      }
      const page = await this.fetch(this.folder, this.cursor);
      if (isCurrent()) {
        this.table.append(group(page.entries.map((entry) => this.row(entry))));
        this.cursor = page.cursor;
        this.changed();
      }
    });
  }

  /** Run `action` when those before it are done; it may ask whether the folder is still shown. */
  inTurn(action) {
    const generation = this.generation;
    const isCurrent = () => generation === this.generation;
    const done = this.turn.then(() => (isCurrent() ? action(isCurrent) : undefined));
    this.turn = done.catch(() => {});
    return done;
  }

  show(rows) {
    const groups = [];
    for (let start = 0; start < rows.length; start += PAGE) {
      groups.push(group(rows.slice(start, start + PAGE)));
    }
    this.table.replaceChildren(this.table.tHead, ...groups);
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
    link.querySelector(".kind").className = `kind ${entry.icon}`;
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
    // Called for every page that is fetched: its cost must not grow with the rows there are.
    const count = this.count;
    const chosen = this.table.querySelectorAll("tbody input:checked").length;
    this.table.hidden = !count;
    this.empty.hidden = count > 0;
    this.more.hidden = !this.cursor;
    this.chooseAll.checked = count > 0 && chosen === count;
    this.chooseAll.indeterminate = chosen > 0 && chosen < count;
    this.dispatchEvent(new Event("choice"));
  }

  listen() {
    this.table.addEventListener("click", (event) => {
      const box = event.target.closest('tbody input[type="checkbox"]');
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
      this.focus(neighbour(row, "next"));
    } else if (row && event.key === "ArrowUp") {
      event.preventDefault();
      this.focus(neighbour(row, "previous"));
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
            () => {}, // The link "More files" stays; scrolling away and back tries again too.
          );
        }
      },
      { rootMargin: "800px" },
    );
    observer.observe(this.more);
  }
}

/** The row before ("previous") or behind ("next") one, also in the page before or behind. */
export function neighbour(row, side) {
  const beyond = row.parentElement[`${side}ElementSibling`];
  const edge = side === "next" ? "firstElementChild" : "lastElementChild";
  const found = row[`${side}ElementSibling`] ?? beyond?.[edge] ?? null;
  return found?.closest("tbody") ? found : null;
}

/** A <tbody> with a page of rows. */
function group(rows) {
  const body = document.createElement("tbody");
  body.setAttribute("role", "rowgroup");
  body.style.containIntrinsicBlockSize = `auto ${rows.length * ROW_REM}rem`;
  body.append(...rows);
  return body;
}

function tick(row) {
  return row.querySelector('input[type="checkbox"]');
}

// The page of a folder: what the buttons do, and walking through folders without leaving the page, so
// that uploads go on meanwhile.

import { subscribe } from "./events.js";
import { getJson, postJson } from "./http.js";
import { askName, choose, pickFolder } from "./files/dialogs.js";
import { acceptDrops } from "./files/drop.js";
import { Listing, neighbour } from "./files/listing.js";
import { Uploads } from "./files/uploads.js";

// Items of one request; the server takes no more.
const BATCH = 500;
// Changes come in bursts: wait for the end of one (milliseconds).
const REFRESH_MS = 250;

const root = document.querySelector("[data-files]");
const listing = new Listing(root);
const uploads = new Uploads(root);
const bar = root.querySelector("[data-selection]");
const problem = root.querySelector("[data-problem]");

function showProblem(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

/** Run what a button does; what goes wrong is shown above the listing. */
async function attempt(action) {
  showProblem("");
  try {
    await action();
  } catch (error) {
    showProblem(error.message);
  }
}

// Changes: our own, and those of other tabs and devices.

let refreshing = 0;

function refreshSoon() {
  clearTimeout(refreshing);
  refreshing = setTimeout(() => listing.refresh().catch((error) => vanished(error)), REFRESH_MS);
}

function vanished(error) {
  if (error.status === 404) {
    showProblem(`${error.message} It was deleted elsewhere.`);
    show("root", "/files/");
  }
}

subscribe("files", { onEvent: refreshSoon });
uploads.addEventListener("stored", refreshSoon);
listing.addEventListener("outdated", () => showProblem("This folder has changed. Reload the page to see it as it is now."));

// Actions on rows

const items = (rows) => rows.map(({ dataset }) => ({ name: dataset.name, version: dataset.version }));
const counted = (rows) => (rows.length === 1 ? `“${rows[0].dataset.name}”` : `${rows.length} items`);

async function inBatches(url, rows, order) {
  const refused = [];
  let done = 0;
  for (let start = 0; start < rows.length; start += BATCH) {
    const answer = await postJson(url, { ...order, items: items(rows.slice(start, start + BATCH)) });
    done += answer.done;
    refused.push(...answer.refused);
  }
  await listing.refresh();
  if (refused.length) {
    const shown = refused.slice(0, 5).map((each) => each.error).join(" ");
    const rest = refused.length > 5 ? ` And ${refused.length - 5} more.` : "";
    showProblem(rows.length > 1 ? `${done} done, ${refused.length} not: ${shown}${rest}` : shown);
  } else {
    listing.clearChoice();
  }
}

const actions = {
  async rename(rows) {
    const [row] = rows;
    const { name, version } = row.dataset;
    const entry = await askName({
      title: "Rename", label: `New name for “${name}”`, value: name, action: "Rename",
      act: async (newName) => (await postJson("/file/rename", { folder: listing.folder, name, version, new_name: newName })).entry,
    });
    await listing.refresh();
    listing.focus(listing.find(entry?.name ?? name));
  },
  async move(rows) {
    const folder = listing.folder;
    const without = new Set(rows.map((row) => row.dataset.id).filter(Boolean));
    const target = await pickFolder({ title: `Move ${counted(rows)} to…`, start: folder, without });
    if (target) {
      await inBatches("/file/move", rows, { folder, target: target.id });
    }
  },
  async delete(rows) {
    const folder = listing.folder;
    const withFolders = rows.some((row) => row.dataset.kind === "folder");
    const { value } = await choose({
      title: `Delete ${counted(rows)}?`,
      text: withFolders ? "Folders are deleted with everything in them. This cannot be undone." : "This cannot be undone.",
      choices: [["", "Cancel", "secondary"], ["delete", "Delete", "danger"]],
    });
    if (value === "delete") {
      const after = neighbour(rows.at(-1), "next") ?? neighbour(rows[0], "previous");
      await inBatches("/file/delete", rows, { folder });
      listing.focus(after?.isConnected ? after : listing.rows[0]);
    }
  },
};

listing.addEventListener("act", ({ detail }) => attempt(() => actions[detail.action](detail.rows)));

listing.addEventListener("choice", () => {
  const count = listing.chosen.length;
  bar.classList.toggle("idle", !count);
  bar.querySelector("[data-selection-count]").textContent = count ? `${count} chosen` : "";
  bar.querySelector('[value="rename"]').disabled = count !== 1;
});
listing.changed();

bar.addEventListener("submit", (event) => {
  event.preventDefault();
  const rows = listing.chosen;
  if (rows.length) {
    attempt(() => actions[event.submitter.value](rows));
  }
});
bar.querySelector("[data-clear-selection]").addEventListener("click", () => listing.clearChoice());

listing.table.addEventListener("click", (event) => {
  const act = event.target.closest("button.act");
  if (act) {
    attempt(() => actions[act.dataset.do]([act.closest("tr")]));
  }
});

// Tools

root.querySelector('[data-tool="new-folder"]').addEventListener("click", () => attempt(async () => {
  const folder = listing.folder;
  const entry = await askName({
    title: "New folder", label: "Name", action: "Create",
    act: async (name) => (await postJson("/file/folder", { folder, name })).entry,
  });
  if (entry) {
    await listing.refresh();
    listing.focus(listing.find(entry.name));
  }
}));

const input = root.querySelector("[data-file-input]");
root.querySelector('[data-tool="upload"]').addEventListener("click", () => input.click());
input.addEventListener("change", () => {
  for (const file of input.files) {
    uploads.add(file, listing.folder);
  }
  input.value = "";
});

acceptDrops(root.querySelector("[data-drop-hint]"), (dropped) => attempt(async () => {
  const folders = new Map([["", listing.folder]]); // path -> id
  for (const { file, path } of dropped) {
    const key = path.join("/");
    if (!folders.has(key)) {
      folders.set(key, await ensureFolder(folders.get(path.slice(0, -1).join("/")), path.at(-1)));
    }
    if (file) {
      uploads.add(file, folders.get(key));
    }
  }
  refreshSoon();
}));

/** The id of a folder that is made unless it is there already. */
async function ensureFolder(parent, name) {
  const { entry } = await getJson(`/file/entry?${new URLSearchParams({ folder: parent, name })}`);
  if (entry?.kind === "folder") {
    return entry.id;
  }
  return (await postJson("/file/folder", { folder: parent, name })).entry.id;
}

// Walking through folders

async function show(folder, url, { push = true } = {}) {
  await attempt(async () => {
    const page = await listing.open(folder);
    if (page === null) {
      return;
    }
    if (push) {
      history.pushState({ folder }, "", url);
    }
    showCrumbs(page.crumbs);
    document.title = `${page.crumbs.at(-1).name} · PennCloud`;
    scrollTo(0, 0);
    listing.focus(listing.rows[0]);
  });
}

function showCrumbs(crumbs) {
  const list = document.createElement("ol");
  for (const [index, { name, url, id }] of crumbs.entries()) {
    const isLast = index === crumbs.length - 1;
    const item = document.createElement("li");
    const place = document.createElement(isLast ? "h1" : "a");
    const text = document.createElement("bdi");
    text.textContent = name;
    place.append(text);
    if (!isLast) {
      place.href = url;
      place.dataset.id = id;
    }
    item.append(place);
    list.append(item);
  }
  root.querySelector("[data-crumbs]").replaceChildren(list);
}

root.addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) {
    return;
  }
  const link = event.target.closest("[data-crumbs] a, .name a");
  const folder = link?.dataset.id ?? link?.closest("tr")?.dataset.id;
  if (folder) {
    event.preventDefault();
    show(folder, link.href);
  }
});

history.replaceState({ folder: listing.folder }, "");
addEventListener("popstate", ({ state }) => {
  if (state?.folder) {
    show(state.folder, location.href, { push: false });
  }
});

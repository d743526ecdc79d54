// What is dropped on the page: files, and folders with all that is in them.

/** Call `onDrop([{ file, path }])` for every drop; `path` are the names of the folders around the file. */
export function acceptDrops(hint, onDrop) {
  let depth = 0;
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

  addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) {
      depth += 1;
      hint.hidden = false;
    }
  });
  addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) {
      depth = Math.max(0, depth - 1);
      hint.hidden = depth === 0;
    }
  });
  addEventListener("dragover", (event) => {
    if (carriesFiles(event)) {
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    }
  });
  addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) {
      return;
    }
    event.preventDefault();
    depth = 0;
    hint.hidden = true;
    // The list is only valid during the event: take everything out of it first.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = [...event.dataTransfer.files];
    if (entries.length) {
      onDrop(await collect(entries));
    } else {
      onDrop(files.map((file) => ({ file, path: [] })));
    }
  });
}

async function collect(entries, path = []) {
  const found = [];
  for (const entry of entries) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({ file, path });
    } else {
      const inside = await children(entry);
      const names = [...path, entry.name];
      found.push({ file: null, path: names });
      found.push(...(await collect(inside, names)));
    }
  }
  return found;
}

/** Browsers give the entries of a folder in portions. */
async function children(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const portion = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!portion.length) {
      return found;
    }
    found.push(...portion);
  }
}

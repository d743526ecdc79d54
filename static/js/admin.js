// Keeps the server table of /admin fresh: asks for the states every two seconds while the page is
// visible. A row that appears or disappears reloads the page; without this script the page still shows
// the states of the moment it was loaded.

const PERIOD_MS = 2000;
const TIMEOUT_MS = 10000;

const table = document.getElementById("servers");
const freshness = document.getElementById("freshness");

function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tell(text, stale) {
  show(freshness, text);
  freshness.className = stale ? "stale" : "fresh";
}

function workersText(workers) {
  return workers.map((one) => `${one.number}: ${one.pid || "-"}${one.state === "serving" ? "" : ` ${one.state}`}`).join(", ");
}

function update(row, server) {
  const field = (name) => row.querySelector(`[data-field="${name}"]`);
  show(field("address"), server.address);
  show(field("pid"), server.pid ? String(server.pid) : "");
  const workers = field("workers");
  workers.hidden = server.workers.length === 0;
  show(workers, workersText(server.workers));
  const state = field("state");
  show(state, server.state);
  state.className = `state ${server.state}`;
  const silent = field("silent");
  silent.hidden = ["live", "drained"].includes(server.state);
  show(silent, `silent for ${Math.round(server.seen_s)} s`);
  field("disabled").hidden = server.enabled;
  const mail = field("mail");
  mail.hidden = !server.mail;
  show(mail, server.mail);
  for (const button of row.querySelectorAll("[data-action]")) {
    button.hidden = !server.actions.includes(button.dataset.action);
  }
}

function apply(overview) {
  const rows = new Map();
  for (const row of table.tBodies[0].rows) rows.set(row.dataset.server, row);
  const known = overview.servers.every((server) => rows.has(server.id));
  if (!known || rows.size !== overview.servers.length) {
    location.reload();
    return;
  }
  for (const server of overview.servers) update(rows.get(server.id), server);
  tell(overview.freshness, overview.stale);
}

async function poll() {
  try {
    const answer = await fetch(table.dataset.poll, {
      headers: { Accept: "application/json" },
      signal: AbortSignal.timeout(TIMEOUT_MS),
      redirect: "error",
    });
    if (!answer.ok) throw new Error(`the frontend answers ${answer.status}`);
    apply(await answer.json());
  } catch (error) {
    tell(`Stale: ${error.message}. The states below are those last known.`, true);
  }
}

async function run() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
    if (document.visibilityState === "visible") await poll();
  }
}

if (table) run();

// One stream of server-sent events that comes back: used by the shared worker, or by a page itself.

// The server sends something at least every 15 s; without it for this long the stream is dead.
const SILENCE_MS = 40_000;
const FIRST_PAUSE_MS = 500;
const LAST_PAUSE_MS = 8_000;

export class EventStream {
  /** `tell(message)` gets {kind: "event", topic, data}, {kind: "connection", connected}, {kind: "logout"}. */
  constructor(tell) {
    this.tell = tell;
    this.cursors = new Map(); // topic -> cursor
    this.source = null;
    this.pauseMs = FIRST_PAUSE_MS;
    this.timer = null;
    this.silence = null;
    this.wasConnected = true;
  }

  /** Add a topic; one that is there already keeps its place, which is returned ("" if it is new). */
  subscribe(topic, cursor) {
    if (this.cursors.has(topic)) {
      return this.cursors.get(topic);
    }
    this.cursors.set(topic, cursor);
    // Several topics of one page come in one go.
    this.reconnect(0);
    return "";
  }

  close() {
    clearTimeout(this.timer);
    clearTimeout(this.silence);
    this.source?.close();
    this.source = null;
    this.cursors.clear();
  }

  reconnect(pauseMs) {
    clearTimeout(this.timer);
    clearTimeout(this.silence);
    this.source?.close();
    this.source = null;
    this.timer = setTimeout(() => this.open(), pauseMs);
  }

  open() {
    const topics = [...this.cursors.keys()].join(",");
    const since = [...this.cursors].map(([topic, cursor]) => `${topic}=${cursor}`).join(",");
    const source = new EventSource(`/events?topics=${encodeURIComponent(topics)}&since=${encodeURIComponent(since)}`);
    this.source = source;
    source.onopen = () => {
      this.pauseMs = FIRST_PAUSE_MS;
      this.setConnected(true);
      this.heard();
    };
    source.onerror = () => this.lost();
    source.addEventListener("beat", () => this.heard());
    source.addEventListener("logout", () => {
      this.close();
      this.tell({ kind: "logout" });
    });
    for (const topic of this.cursors.keys()) {
      source.addEventListener(topic, (event) => {
        this.heard();
        this.remember(event.lastEventId);
        this.tell({ kind: "event", topic, data: JSON.parse(event.data) });
      });
    }
    this.heard();
  }

  remember(id) {
    for (const part of id.split(",")) {
      const at = part.indexOf("=");
      if (at > 0 && this.cursors.has(part.slice(0, at))) {
        this.cursors.set(part.slice(0, at), part.slice(at + 1));
      }
    }
  }

  heard() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.lost(), SILENCE_MS);
  }

  // Our own way of coming back, not EventSource's: it gives up for good after an error status.
  async lost() {
    this.reconnect(this.pauseMs);
    this.pauseMs = Math.min(this.pauseMs * 2, LAST_PAUSE_MS);
    try {
      const response = await fetch("/session", { headers: { accept: "application/json" } });
      if (response.status === 401) {
        this.close();
        this.tell({ kind: "logout" });
      }
    } catch {
      this.setConnected(false);
    }
  }

  setConnected(connected) {
    if (connected !== this.wasConnected) {
      this.wasConnected = connected;
      this.tell({ kind: "connection", connected });
    }
  }
}

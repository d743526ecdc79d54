// Live updates for a page: `subscribe("chat", { onEvent })`.
//
// All tabs of a browser share one stream of server-sent events (events-worker.js), because a browser
// opens only six connections to a host. Where there is no SharedWorker, or it cannot start, each tab has
// a stream of its own.

import { EventStream } from "./event-stream.js";
import { balancerUrl, eventsWorkerUrl, sessionName } from "./http.js";

const subscribers = new Map(); // topic -> [{ onEvent, onPlace, cursor }]
const listeners = new Set(); // of the connection's state
let send = null; // sends a message to the stream, wherever it runs
let connected = true;
let lostSince = 0;
const holds = []; // what would be lost by leaving the page
let takeAlong = null; // what goes to the same page on another frontend

/**
 * Call `onEvent(data)` for every event of `topic`. `cursor` is the place up to which the page knows
 * everything ("" if it does not matter); `onPlace(cursor)` tells the place of a stream that was open
 * already: a page that is behind it has to fetch what is missing.
 */
export function subscribe(topic, { cursor = "", onEvent, onPlace = () => {} }) {
  if (!sessionName) {
    return;
  }
  const known = subscribers.get(topic) ?? [];
  known.push({ onEvent, onPlace, cursor });
  subscribers.set(topic, known);
  start();
  send({ kind: "subscribe", topic, cursor });
}

/** Call back with true or false whenever the connection to the server comes or goes. */
export function onConnection(callback) {
  listeners.add(callback);
}

/** Seconds since the connection was lost; 0 while it is there. */
export function lostForS() {
  return connected ? 0 : (Date.now() - lostSince) / 1000;
}

/** The page is not left by itself while `check()` says that something on it would be lost. */
export function hold(check) {
  holds.push(check);
}

/** What the page remembers by itself goes to another frontend as the string that `state()` gives. */
export function carry(state) {
  takeAlong = state;
}

/** Whether the page may be left by itself. Offline, no other frontend could be reached either. */
export function mayLeave() {
  const another = new URL(balancerUrl).origin !== location.origin;
  return another && navigator.onLine && !holds.some((check) => check());
}

/**
 * Go to the same page on another frontend, through the balancer. `state` (a short string) arrives there
 * as the fragment: what a page remembers by itself stays with the frontend's own address.
 */
export function goElsewhere(state = takeAlong?.() ?? "") {
  const target = new URL(location.pathname + location.search, balancerUrl);
  target.hash = state;
  location.replace(target.href);
}

function start() {
  if (send !== null) {
    return;
  }
  if (typeof SharedWorker === "function") {
    const worker = new SharedWorker(eventsWorkerUrl, { type: "module", name: `events-${sessionName}` });
    worker.port.onmessage = (event) => receive(event.data);
    worker.port.start();
    worker.onerror = () => startHere();
    send = (message) => worker.port.postMessage(message);
    addEventListener("pagehide", () => worker.port.postMessage({ kind: "bye" }));
    addEventListener("pageshow", (event) => {
      if (event.persisted) {
        location.reload();
      }
    });
  } else {
    startHere();
  }
}

function startHere() {
  const stream = new EventStream(receive);
  send = (message) => {
    if (message.kind === "subscribe") {
      stream.subscribe(message.topic, message.cursor);
    }
  };
  for (const [topic, [{ cursor }]] of subscribers) {
    send({ kind: "subscribe", topic, cursor });
  }
}

function receive(message) {
  if (message.kind === "event") {
    for (const { onEvent } of subscribers.get(message.topic) ?? []) {
      onEvent(message.data);
    }
  } else if (message.kind === "place") {
    for (const { onPlace } of subscribers.get(message.topic) ?? []) {
      onPlace(message.cursor);
    }
  } else if (message.kind === "connection") {
    setConnected(message.connected);
  } else if (message.kind === "logout") {
    location.reload();
  }
}

function setConnected(now) {
  if (connected === now) {
    return;
  }
  connected = now;
  lostSince = Date.now();
  for (const callback of listeners) {
    callback(connected);
  }
}

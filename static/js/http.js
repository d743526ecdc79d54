// Requests to our own frontend: the CSRF token, JSON, and errors that can be shown.

function meta(name) {
  return document.querySelector(`meta[name="${name}"]`)?.content ?? "";
}

/** The token that every request has to carry that changes something. */
export const csrf = meta("csrf");
/** The balancer's address: another frontend can be had there. */
export const balancerUrl = meta("lb-url");
/** Who is logged in; "" for nobody. */
export const userName = meta("user");
/** Names this session among the tabs of the browser. */
export const sessionName = meta("session");
export const eventsWorkerUrl = meta("events-worker");

/** An answer that was not a success. `status` is 0 when there was no answer at all. */
export class RequestFailed extends Error {
  constructor(status, message, retryAfterS = 0) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }

  /** Whether the same request may succeed later. */
  get retryable() {
    return this.status === 0 || this.status === 429 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

/**
 * fetch() with our headers; `json` becomes the body. Resolves to the Response of a success and throws
 * RequestFailed for everything else. A session that has ended leads to the login page.
 */
export async function request(url, { method = "GET", json, headers = {}, ...options } = {}) {
  const sent = { accept: "application/json", ...headers };
  if (method !== "GET" && method !== "HEAD") {
    sent["x-csrf-token"] = csrf;
  }
  if (json !== undefined) {
    sent["content-type"] = "application/json";
    options.body = JSON.stringify(json);
  }
  let response;
  try {
    response = await fetch(url, { method, headers: sent, credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new RequestFailed(0, "The server cannot be reached.");
  }
  if (response.ok) {
    return response;
  }
  if (response.status === 401) {
    location.reload();
  }
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // Not JSON: the general text has to do.
  }
  throw new RequestFailed(response.status, message, Number(response.headers.get("retry-after") ?? 0));
}

/** The JSON answer of a GET. */
export async function getJson(url, options = {}) {
  return (await request(url, options)).json();
}

/** POST `json` and give the JSON answer (null if there is none). */
export async function postJson(url, json, options = {}) {
  const response = await request(url, { method: "POST", json, ...options });
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

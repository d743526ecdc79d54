// What a page cannot do when its frontend is gone: it is not there yet. A navigation that this frontend does
// not answer goes to the balancer, which knows another one; the cookies go along, as they know no ports.

const balancer = new URL(self.location.href).searchParams.get("balancer");
// A frontend that has not begun to answer after so long is taken for gone: asking another does no harm.
const PATIENCE_MS = 3500;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.mode === "navigate" && request.method === "GET") {
    event.respondWith(answer(request));
  }
});

async function answer(request) {
  const { pathname, search } = new URL(request.url);
  const elsewhere = () => Response.redirect(new URL(pathname + search, balancer).href, 307);
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(() => resolve(elsewhere()), PATIENCE_MS);
  });
  try {
    return await Promise.race([fetch(request), late]);
  } catch (error) {
    if (!self.navigator.onLine) {
      throw error; // It is not the frontend that is away.
    }
    return elsewhere();
  } finally {
    clearTimeout(timer);
  }
}

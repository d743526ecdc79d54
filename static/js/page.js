// What every page does: local times, and a banner while the server cannot be reached.

import { localizeTimes } from "./times.js";
import { onConnection } from "./events.js";

localizeTimes();

const banner = document.querySelector("[data-connection]");
onConnection((connected) => {
  banner.hidden = connected;
});

// The same page, on whatever frontend the balancer gives us.
const elsewhere = document.querySelector("[data-elsewhere]");
elsewhere.href = new URL(location.pathname + location.search, elsewhere.href).href;

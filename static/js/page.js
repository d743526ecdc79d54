// What every page does: local times, and a banner while the server cannot be reached.

import { localizeTimes } from "./times.js";
import { goElsewhere, hold, lostForS, mayLeave, onConnection } from "./events.js";
import { balancerUrl } from "./http.js";

localizeTimes();

// A frontend that was only restarted is back by then; a person does not wait longer.
const LEAVE_AFTER_S = 2;

const banner = document.querySelector("[data-connection]");
let leaving = null;
onConnection((connected) => {
  banner.hidden = connected;
  clearInterval(leaving);
  if (!connected) {
    leaving = setInterval(() => {
      if (lostForS() > LEAVE_AFTER_S && mayLeave()) {
        clearInterval(leaving);
        goElsewhere();
      }
    }, 250);
  }
});

// What somebody has typed or ticked and not sent yet. Fields that a page carries along are no reason to stay.
function isChanged(field) {
  if (field.type === "hidden" || field.closest("[data-carried]")) {
    return false;
  }
  if (field.type === "checkbox" || field.type === "radio") {
    return field.checked !== field.defaultChecked;
  }
  return "defaultValue" in field && field.value !== field.defaultValue;
}
hold(() => [...document.querySelectorAll("input, textarea")].some(isChanged));

if ("serviceWorker" in navigator && new URL(balancerUrl).origin !== location.origin) {
  const worker = `/service-worker.js?balancer=${encodeURIComponent(balancerUrl)}`;
  // Without it everything works but for a frontend that is gone when a link is followed.
  navigator.serviceWorker.register(worker).catch(() => {});
}

// The same page, on whatever frontend the balancer gives us.
const elsewhere = document.querySelector("[data-elsewhere]");
elsewhere.href = new URL(location.pathname + location.search, elsewhere.href).href;

// Times in the reader's own zone and language.

const short = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
});
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const withYear = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A time as short as it is clear: today's without the date. */
export function timeText(date, now = new Date()) {
  if (date.toDateString() === now.toDateString()) {
    return short.format(date);
  }
  return date.getFullYear() === now.getFullYear() ? day.format(date) : withYear.format(date);
}

/** Fill a <time> element from a Date. */
export function showTime(element, date) {
  element.dateTime = date.toISOString();
  element.textContent = timeText(date);
  element.title = full.format(date);
}

/** Turn every <time datetime> below `root` into local time. */
export function localizeTimes(root = document) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    if (!Number.isNaN(date.getTime())) {
      showTime(element, date);
    }
  }
}

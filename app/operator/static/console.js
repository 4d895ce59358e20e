// What a page does beyond its HTML: it keeps itself current and says what changed.
// Without this script every page works; it is then as old as its last load.

const INTERVAL = 2500;
const SLOWEST = 30000;
const live = document.getElementById("live");
const announcements = document.getElementById("announcements");

/** Replace those parts of the page that differ, and leave the reader's place as it is. */
function merge(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const shown = live.querySelector(`[data-live="${part.dataset.live}"]`);
    if (!shown || shown.isEqualNode(part)) continue;
    for (const [place, details] of shown.querySelectorAll("details").entries()) {
      part.querySelectorAll("details")[place]?.toggleAttribute("open", details.open);
    }
    if (shown.isEqualNode(part)) continue;
    const held = shown.contains(document.activeElement) ? document.activeElement : null;
    const said = shown.dataset.announce;
    const scrolled = [...shown.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    shown.replaceWith(part);
    part.querySelectorAll(".scroll").forEach((one, place) => {
      one.scrollLeft = scrolled[place] ?? 0;
    });
    if (held) focusAgain(part, held);
    if (part.dataset.announce && part.dataset.announce !== said) {
      announcements.textContent = part.dataset.announce;
    }
  }
}

function focusAgain(part, held) {
  const href = held.getAttribute("href");
  const again = held.id
    ? part.querySelector(`#${CSS.escape(held.id)}`)
    : [...part.querySelectorAll(held.localName)].find((one) => one.getAttribute("href") === href);
  again?.focus({ preventScroll: true });
}

function follow(place, button) {
  const label = button.querySelector("span");
  let tag = null;
  let wait = INTERVAL;
  let timer = null;
  let running = true;

  const show = (state, words) => {
    place.dataset.state = state;
    label.textContent = words;
  };

  async function ask() {
    timer = null;
    try {
      const headers = { "X-Console-Live": "1" };
      if (tag) headers["If-None-Match"] = tag;
      const answer = await fetch(location.href, { headers, cache: "no-store" });
      if (answer.status === 401) {
        running = false;
        show("ended", "Signed out");
        location.reload();
        return;
      }
      if (answer.status === 200) {
        tag = answer.headers.get("ETag");
        merge(await answer.text());
      } else if (answer.status !== 304) {
        throw new Error(`status ${answer.status}`);
      }
      wait = INTERVAL;
      show("on", "Live");
    } catch {
      wait = Math.min(wait * 2, SLOWEST);
      show("lost", "Reconnecting");
    }
    plan();
  }

  function plan() {
    clearTimeout(timer);
    timer = running && !document.hidden ? setTimeout(ask, wait) : null;
  }

  button.addEventListener("click", () => {
    running = !running;
    button.setAttribute("aria-pressed", String(running));
    show(running ? "on" : "paused", running ? "Live" : "Paused");
    if (running) ask();
    else clearTimeout(timer);
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && running) {
      clearTimeout(timer);
      ask();
    }
  });
  place.hidden = false;
  show("on", "Live");
  plan();
}

const place = document.querySelector("[data-live-switch]");
if (live && place) follow(place, place.querySelector("button"));

// A form is sent once, however often its button is pressed; the server would see to that anyway.
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button[type=submit]")) button.disabled = true;
  });
}

// A choice that changes what else can be chosen asks for the page again.
for (const choice of document.querySelectorAll("select[data-submit]")) {
  choice.addEventListener("change", () => choice.form.requestSubmit());
}

// On a narrow screen the navigation scrolls: show where we are.
document.querySelector("nav [aria-current=page]")?.scrollIntoView({ block: "nearest", inline: "center" });

// A slash goes to the search, wherever nothing is typed.
const find = document.getElementById("find");
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, [contenteditable]");
  if (event.key !== "/" || typing || !find || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  find.focus();
});

// Ids are copied whole, also those that are shown in part.
if (navigator.clipboard) document.documentElement.classList.add("js");
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  announcements.textContent = `Copied ${button.dataset.copy}`;
  button.textContent = "Copied";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1500);
});

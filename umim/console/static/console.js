// Brings a page up to date without losing place, focus or selection: asks for it again and puts in what changed.
// Without this script every page works all the same; reload it to see what is new.
"use strict";
(() => {
  const SECONDS = 5;
  const button = document.getElementById("pause");
  let paused = false;
  let busy = false;

  const setPaused = (value) => {
    paused = value;
    button.setAttribute("aria-pressed", String(value));
    button.textContent = value ? "Resume updates" : "Pause updates";
  };

  // What was open stays open, and what had the focus gets it again.
  const openDetails = (part) => [...part.querySelectorAll("details")].map((one) => one.open);
  const focusKey = (part) => {
    const active = document.activeElement;
    if (!active || active === document.body || !part.contains(active)) return null;
    const all = [...part.querySelectorAll("a, summary, [tabindex]")];
    return { href: active.getAttribute("href"), place: all.indexOf(active) };
  };
  const refocus = (part, key) => {
    const all = [...part.querySelectorAll("a, summary, [tabindex]")];
    const same = key.href && all.find((one) => one.getAttribute("href") === key.href);
    const target = same || all[key.place];
    if (target) target.focus({ preventScroll: true });
  };
  const selecting = (part) => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  // By id, what the server sent last: what a reader opened meanwhile is no news.
  const sent = new Map([...document.querySelectorAll("[data-live]")].map((one) => [one.id, one.innerHTML]));

  const swap = (old, fresh) => {
    if (sent.get(old.id) === fresh.innerHTML || selecting(old)) return;
    sent.set(old.id, fresh.innerHTML);
    const open = openDetails(old);
    const key = focusKey(old);
    const scrolled = [...old.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    old.replaceChildren(...fresh.childNodes);
    [...old.querySelectorAll("details")].forEach((one, at) => { one.open = Boolean(open[at]); });
    [...old.querySelectorAll(".scroll")].forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
    if (key) refocus(old, key);
  };

  const silent = (value) => {
    const notice = document.getElementById("silent");
    if (notice && notice.hidden === value) notice.hidden = !value;
  };

  const update = async () => {
    if (paused || busy || document.hidden) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { cache: "no-store", credentials: "same-origin", redirect: "error" });
      silent(answer.status >= 500 && answer.status !== 501);
      // 404: what the page is about has been deleted. The answer says so.
      if (answer.status !== 200 && answer.status !== 404) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (paused) return;
      for (const old of document.querySelectorAll("[data-live]")) {
        const part = fresh.getElementById(old.id);
        if (part) swap(old, part); else old.replaceChildren();
      }
      // Sections that are new, such as the model of a round that has just ended, need the whole page.
      const known = new Set([...document.querySelectorAll("[data-live]")].map((one) => one.id));
      if (answer.status === 404 || [...fresh.querySelectorAll("[data-live]")].some((one) => !known.has(one.id))) {
        document.getElementById("main").replaceChildren(...fresh.getElementById("main").childNodes);
        return;
      }
      // Spoken by a screen reader, but only when it says something new.
      const spoken = document.getElementById("live-summary");
      const words = fresh.getElementById("live-summary");
      if (spoken && words && spoken.textContent !== words.textContent) spoken.textContent = words.textContent;
    } catch {
      silent(true); // the page stays as it is, with the time that it is from at its foot
    } finally {
      busy = false;
    }
  };

  button.hidden = false;
  button.addEventListener("click", () => setPaused(!paused));
  setInterval(update, SECONDS * 1000);
})();

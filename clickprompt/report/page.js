"use strict";
// The theme: the reader's system decides until the button does
const root = document.documentElement;
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try { chosen = localStorage.getItem("clickprompt-theme"); } catch { /* no storage: ask the system each time */ }
const show = () => {
  const dark = chosen ? chosen === "dark" : system.matches;
  root.style.colorScheme = chosen ?? "";
  button.textContent = dark ? "Light" : "Dark";
  button.setAttribute("aria-label", dark ? "Switch to light colours" : "Switch to dark colours");
  button.setAttribute("aria-pressed", String(dark));
};
button.hidden = false;
button.addEventListener("click", () => {
  chosen = (chosen ? chosen === "dark" : system.matches) ? "light" : "dark";
  try { localStorage.setItem("clickprompt-theme", chosen); } catch { /* it lasts as long as the page */ }
  show();
});
system.addEventListener("change", show);
show();

// What a mark in a chart stands for; the same figures are in the table behind it
const tip = document.getElementById("tip");
const say = (mark, left, top, above) => {
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.getAttribute("data-tip");
  tip.style.left = Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (top + tip.offsetHeight > innerHeight ? above - tip.offsetHeight : top) + "px";
};
const marked = (target) => (target instanceof Element ? target.closest("[data-tip]") : null);
document.addEventListener("pointermove", (event) => {
  say(marked(event.target), event.clientX + 14, event.clientY + 18, event.clientY - 10);
});

// By keyboard: Tab reaches a chart's mark, the arrows the others, Escape closes the tip. The document listens,
// because a chart that did would be a stop of its own
const marksOf = new Map();
for (const chart of document.querySelectorAll("svg[role=img]")) {
  const marks = [...chart.querySelectorAll("[data-tip]")];
  if (!marks.length) continue;
  chart.setAttribute("role", "group");
  marks.forEach((mark, place) => {
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", mark.getAttribute("data-tip"));
    mark.setAttribute("tabindex", place ? "-1" : "0");
    marksOf.set(mark, marks);
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.hidden = true;
  const marks = marksOf.get(event.target);
  if (!marks) return;
  const place = marks.indexOf(event.target), last = marks.length - 1;
  const places = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: last };
  if (!(event.key in places)) return;
  event.preventDefault();
  const next = marks[Math.max(0, Math.min(last, places[event.key]))];
  event.target.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
});
const sayFocused = () => {
  const focused = document.activeElement, box = focused.getBoundingClientRect();
  if (marksOf.has(focused)) say(focused, box.left, box.bottom + 10, box.top - 10);
};
document.addEventListener("focusin", sayFocused);
document.addEventListener("focusout", () => { tip.hidden = true; });
// A focused mark scrolls into view
addEventListener("scroll", () => { if (!tip.hidden) sayFocused(); }, { passive: true });

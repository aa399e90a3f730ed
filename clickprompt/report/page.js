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
document.addEventListener("pointermove", (event) => {
  const mark = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.getAttribute("data-tip");
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = (event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18) + "px";
});

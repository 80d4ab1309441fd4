"use strict";
// Light or dark: as the system is set until the reader chooses; the choice is stored if possible.
(() => {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const recall = () => {
    try { return localStorage.getItem("affectnet-theme"); } catch { return null; }
  };
  const show = (theme) => {
    const dark = theme === "dark";
    document.documentElement.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(dark));
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", dark ? "Switch to light" : "Switch to dark");
  };
  const now = () => recall() || (system.matches ? "dark" : "light");
  show(now());
  button.hidden = false;
  system.addEventListener("change", () => show(now()));
  button.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("affectnet-theme", next); } catch { /* not allowed for some local files */ }
    show(next);
  });
})();

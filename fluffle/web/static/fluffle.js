// Work of the browser: the theme, relative times, form fields as pairs, keyboard shortcuts.
"use strict";

const fluffle = (() => {
  const root = document.documentElement;
  const THEME = "fluffle-theme";

  function theme() {
    return root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  }

  function setTheme(name) {
    root.dataset.theme = name;
  }

  function switchTheme() {
    setTheme(theme() === "dark" ? "light" : "dark");
    localStorage.setItem(THEME, theme());
  }

  const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

  function length(seconds) {
    const at = UNITS.findIndex(([, size]) => seconds >= size);
    if (at < 0) return "0 s";
    const [unit, size] = UNITS[at];
    return `${Math.floor(seconds / size)} ${unit}`;
  }

  function ago(moment) {
    const seconds = Math.round((Date.now() - Date.parse(moment)) / 1000);
    if (Number.isNaN(seconds)) return "";
    return seconds >= 0 ? (seconds < 2 ? "now" : `${length(seconds)} ago`) : `in ${length(-seconds)}`;
  }

  function tick() {
    for (const element of document.querySelectorAll("time.ago")) {
      const moment = element.getAttribute("datetime");
      const text = moment ? ago(moment) : "";
      if (element.textContent === text) continue;
      element.textContent = text;
      element.title = moment ? new Date(moment).toLocaleString() : "";
    }
    for (const element of document.querySelectorAll("[data-follow]")) {
      if (element.dataset.length === String(element.textContent.length)) continue;
      const distance = element.scrollHeight - element.scrollTop - element.clientHeight;
      if (!element.dataset.length || distance < 160) element.scrollTop = element.scrollHeight;
      element.dataset.length = element.textContent.length;
    }
  }

  function pairs(form) {
    return [...new FormData(form)]
      .filter(([, value]) => typeof value === "string")
      .map(([name, value]) => {
        const local = form.elements[name]?.type === "datetime-local" && value;
        return [name, local ? new Date(value).toISOString() : value];
      });
  }

  function remember(query) {
    history.pushState(null, "", location.pathname + query);
  }

  function onKey(event) {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && typing?.form) typing.form.requestSubmit();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (!target) return;
    event.preventDefault();
    target.focus();
  }

  setTheme(localStorage.getItem(THEME) || "");
  addEventListener("popstate", () => location.reload());
  addEventListener("keydown", onKey);
  addEventListener("DOMContentLoaded", () => {
    new MutationObserver(tick).observe(document.body, {
      subtree: true,
      childList: true,
      characterData: true,
      attributes: true,
      attributeFilter: ["datetime"],
    });
    setInterval(tick, 1000);
    tick();
  });
  return { switchTheme, pairs, remember };
})();

// Before the page is drawn, so that it does not flash: the scheme that was chosen here last, else the system's.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("nanogpt.theme");
  } catch {
    // storage may be forbidden; the system's scheme is a good one
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();

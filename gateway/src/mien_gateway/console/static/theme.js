// Apply the chosen colours before the page is drawn. This is a classic script, since modules run too late for that.
try {
  const theme = localStorage.getItem("mien-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage can be forbidden; the page then follows the system.
}

// Dark or light, before the first paint: a page that flashes white at night is no good on call. Not a module, because
// modules run after the page was painted.
(function () {
  const KEY = "wayhold.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const read = () => {
    try {
      const stored = localStorage.getItem(KEY);
      return stored === "dark" || stored === "light" ? stored : "auto";
    } catch {
      return "auto"; // storage may be forbidden
    }
  };
  const theme = {
    choice: read(),
    choose(choice) {
      theme.choice = choice;
      try {
        localStorage.setItem(KEY, choice);
      } catch {
        // Then it holds for this visit.
      }
      apply();
    },
  };
  const apply = () => {
    document.documentElement.dataset.theme = theme.choice === "auto" ? (system.matches ? "dark" : "light") : theme.choice;
    dispatchEvent(new Event("themechange"));
  };
  system.addEventListener("change", apply);
  window.wayholdTheme = theme;
  apply();
})();

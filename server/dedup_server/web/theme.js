// Before the first paint, so that nothing flashes: the theme and the language that were chosen here before.
{
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  const language = localStorage.getItem("language") ?? navigator.language;
  document.documentElement.lang = language.startsWith("zh") ? "zh" : "en";
}

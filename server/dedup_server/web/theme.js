// Apply the stored theme and language before the first paint, so that nothing flashes.
{
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  const language = localStorage.getItem("language") ?? navigator.language;
  document.documentElement.lang = language.startsWith("zh") ? "zh" : "en";
}

/**
 * Explains why the page does not load. Not a module, because browsers load no modules for a page opened as a file.
 */

const FILE =
  "This page was opened as a file, and browsers load a model from a web server only. Run " +
  "“python3 -m http.server” in the folder of this page, and open localhost:8000 in the browser.";

if (location.protocol === "file:") tell(FILE);
else addEventListener("error", tellOfScript, true); // the event does not bubble

/** @param {Event} event */
function tellOfScript({ target }) {
  if (!(target instanceof HTMLScriptElement)) return;
  tell(
    `${target.getAttribute("src")}, or a file that it needs, cannot be loaded. ` +
      "Copy the whole folder of the page to the server.",
  );
}

/** @param {string} why */
function tell(why) {
  for (const [id, text] of [
    ["error", why],
    ["status", "Not loaded."],
  ]) {
    const place = document.getElementById(id);
    if (place) place.textContent = text;
  }
}
